// A foreign initiator: sends CDBs to an iSCSI logical unit by libiscsi, all over one session.
//
// Usage: iscsi_cdb URL [--initiator NAME] [--header-digest]
//
// Each line of standard input is a command: the CDB in hexadecimal, then "in N" for so many
// bytes to read, or "out HEX" or "out N*HH" (N bytes of value HH) for data to write.
// Each answer is a line: "good DATA", "check KEY CODE", "conflict", or "status N". Secrets come
// from the environment, as libiscsi reads them. Exit status: 0 all were answered, 1 no session
// (the reason is on stderr) or lost.
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct DestroyContext {
  void operator()(iscsi_context* context) const { iscsi_destroy_context(context); }
};
struct FreeTask {
  void operator()(scsi_task* task) const { scsi_free_scsi_task(task); }
};
using Context = std::unique_ptr<iscsi_context, DestroyContext>;
using Bytes = std::vector<unsigned char>;

Bytes from_hex(const std::string& text) {
  Bytes out;
  if (const auto star = text.find('*'); star != std::string::npos)
    return Bytes(std::stoul(text.substr(0, star)),
                 static_cast<unsigned char>(std::stoul(text.substr(star + 1), nullptr, 16)));
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    out.push_back(static_cast<unsigned char>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return out;
}

void tell(const scsi_task& task) {
  switch (task.status) {
    case SCSI_STATUS_GOOD:
      std::printf("good ");
      for (int i = 0; i < task.datain.size; ++i) std::printf("%02x", task.datain.data[i]);
      std::printf("\n");
      break;
    case SCSI_STATUS_CHECK_CONDITION:
      std::printf("check %x %04x\n", static_cast<unsigned>(task.sense.key),
                  static_cast<unsigned>(task.sense.ascq));
      break;
    case SCSI_STATUS_RESERVATION_CONFLICT:
      std::printf("conflict\n");
      break;
    default:
      std::printf("status %d\n", task.status);
  }
  std::fflush(stdout);
}

bool send(iscsi_context* context, int lun, const std::string& line) {
  std::istringstream words(line);
  std::string cdb_text, way, what;
  words >> cdb_text >> way >> what;
  Bytes cdb = from_hex(cdb_text), data;
  cdb.resize(16);
  int direction = SCSI_XFER_NONE, length = 0;
  if (way == "in") {
    direction = SCSI_XFER_READ;
    length = std::stoi(what);
  } else if (way == "out") {
    direction = SCSI_XFER_WRITE;
    data = from_hex(what);
    length = static_cast<int>(data.size());
  }
  std::unique_ptr<scsi_task, FreeTask> task(
      scsi_create_task(static_cast<int>(cdb.size()), cdb.data(), direction, length));
  iscsi_data out{data.size(), data.data()};
  if (iscsi_scsi_command_sync(context, lun, task.get(), data.empty() ? nullptr : &out) == nullptr) {
    std::fprintf(stderr, "lost: %s\n", iscsi_get_error(context));
    return false;
  }
  tell(*task);
  return true;
}

int usage() {
  std::fprintf(stderr, "usage: iscsi_cdb URL [--initiator NAME] [--header-digest]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return usage();
  std::string name = "iqn.2026-11.test:initiator";
  bool header_digest = false;
  for (int i = 2; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--initiator" && i + 1 < argc)
      name = argv[++i];
    else if (option == "--header-digest")
      header_digest = true;
    else
      return usage();
  }
  Context context(iscsi_create_context(name.c_str()));
  iscsi_url* const url = iscsi_parse_full_url(context.get(), argv[1]);
  if (url == nullptr) return std::fprintf(stderr, "%s\n", iscsi_get_error(context.get())), 1;
  // The same port of the same name each time, as reservations are a port's.
  iscsi_set_isid_en(context.get(), 0x2026, 1);
  const int lun = url->lun;
  iscsi_set_session_type(context.get(), ISCSI_SESSION_NORMAL);
  iscsi_set_targetname(context.get(), url->target);
  iscsi_set_header_digest(context.get(),
                          header_digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
  iscsi_set_noautoreconnect(context.get(), 1);
  if (url->user[0] != '\0') iscsi_set_initiator_username_pwd(context.get(), url->user, url->passwd);
  if (url->target_user[0] != '\0')
    iscsi_set_target_username_pwd(context.get(), url->target_user, url->target_passwd);
  const std::string portal = url->portal;
  iscsi_destroy_url(url);
  if (iscsi_connect_sync(context.get(), portal.c_str()) != 0 ||
      iscsi_login_sync(context.get()) != 0)
    return std::fprintf(stderr, "no session: %s\n", iscsi_get_error(context.get())), 1;
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.empty()) continue;
    if (!send(context.get(), lun, line)) return 1;
  }
  iscsi_logout_sync(context.get());
  return 0;
}
