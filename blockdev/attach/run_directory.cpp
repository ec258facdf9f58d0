#include "blockdev/attach/run_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "base/control_socket.h"
#include "base/log.h"
#include "blockdev/attach/nbd_control.h"

namespace tidepool::blockdev::attach {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path all_directories() { return control_directory("nbd-attach"); }
fs::path directory_of(std::uint32_t index) {
  return all_directories() / ("nbd" + std::to_string(index));
}

Result<> make_all_directories() {
  const fs::path path = all_directories();
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) fs::permissions(path, fs::perms::owner_all, error);
  if (error) return fail_errno(error.value(), "cannot make " + path.native());
  return {};
}

Result<AttachmentState> read_state(const fs::path& directory) {
  std::ifstream file(directory / "state");
  const json value = json::parse(file, nullptr, false);
  if (!value.is_object()) return fail(ErrorKind::not_found, "{}: no state", directory.native());
  AttachmentState state;
  state.index = value.value("index", 0U);
  state.kind = value.value("kind", "");
  state.target = value.value("target", "");
  state.backend = value.value("backend", "");
  state.size = value.value("size", std::uint64_t{0});
  state.connections = value.value("connections", 0U);
  state.read_only = value.value("read_only", false);
  state.state = value.value("state", "");
  state.message = value.value("message", "");
  state.reconnects = value.value("reconnects", 0U);
  state.server_pid = value.value("server_pid", 0);
  return state;
}

// The process that holds the lock; 0: none.
pid_t owner_of(const fs::path& directory) {
  const UniqueFd file(::open((directory / "lock").c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (!file || ::fcntl(file.get(), F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return 0;
  return lock.l_pid;
}

}  // namespace

json to_json(const AttachmentState& state) {
  json out{{"device", device_path(state.index)},
           {"index", state.index},
           {"kind", state.kind},
           {"target", state.target},
           {"backend", state.backend},
           {"size", state.size},
           {"connections", state.connections},
           {"read_only", state.read_only},
           {"state", state.state},
           {"reconnects", state.reconnects},
           {"pid", state.pid}};
  if (!state.message.empty()) out["message"] = state.message;
  if (state.server_pid != 0) out["server_pid"] = state.server_pid;
  return out;
}

Result<RunDirectory> RunDirectory::create() {
  if (auto made = make_all_directories(); !made) return std::unexpected(made.error());
  std::string name = all_directories() / "new.XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return fail_errno(errno, "cannot make " + name);
  UniqueFd file(::open((name + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  RunDirectory directory(name, std::move(file));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (!directory.lock_ || ::fcntl(directory.lock_.get(), F_SETLK, &lock) != 0)
    return fail_errno(errno, "cannot lock " + name + "/lock");
  return directory;
}

// The device may have been attached anew, and the name be another's.
RunDirectory::~RunDirectory() {
  if (path_.empty()) return;
  auto all = lock_all_attachments();
  struct stat ours{}, named{};
  const bool is_ours = ::fstat(lock_.get(), &ours) == 0 &&
                       ::stat((path_ / "lock").c_str(), &named) == 0 &&
                       ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
  std::error_code ignored;
  if (all && is_ours) fs::remove_all(path_, ignored);
}

Result<> RunDirectory::name_after(std::uint32_t index) {
  std::error_code error;
  const fs::path wanted = directory_of(index);
  fs::remove_all(wanted, error);  // of a supervisor that was killed
  fs::rename(path_, wanted, error);
  if (error) return fail_errno(error.value(), "cannot make " + wanted.native());
  path_ = wanted;
  return {};
}

void RunDirectory::write(const AttachmentState& state) const {
  const fs::path fresh = path_ / "state.new";
  std::ofstream file(fresh);
  file << to_json(state).dump() << '\n';
  file.close();
  std::error_code error;
  if (file) fs::rename(fresh, path_ / "state", error);
  if (!file || error) log().warn("cannot write {}: --list shows old news", fresh.native());
}

bool RunDirectory::is_detaching() const {
  std::error_code ignored;
  return fs::exists(path_ / "detaching", ignored);
}

Result<UniqueFd> lock_all_attachments() {
  if (auto made = make_all_directories(); !made) return std::unexpected(made.error());
  const fs::path path = all_directories() / "lock";
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file || ::flock(file.get(), LOCK_EX) != 0)
    return fail_errno(errno, "cannot lock " + path.native());
  return file;
}

Result<std::vector<AttachmentState>> list_attachments() {
  std::vector<AttachmentState> found;
  std::error_code error;
  for (fs::directory_iterator entry(all_directories(), error), end; entry != end;
       entry.increment(error)) {
    if (error) break;
    auto state = read_state(entry->path());
    if (!state || entry->path() != directory_of(state->index)) continue;
    state->pid = owner_of(entry->path());
    if (state->pid == 0) {
      if (attached_backend(state->index) != state->backend) continue;
      state->state = "unsupervised";
    }
    found.push_back(std::move(*state));
  }
  if (error && error != std::errc::no_such_file_or_directory)
    return fail_errno(error.value(), "cannot read " + all_directories().native());
  std::ranges::sort(found, {}, &AttachmentState::index);
  return found;
}

Result<> mark_detaching(std::uint32_t index, bool detaching) {
  const fs::path path = directory_of(index) / "detaching";
  std::error_code ignored;
  if (!detaching) {
    fs::remove(path, ignored);
    return {};
  }
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!file) return fail_errno(errno, "cannot make " + path.native());
  return {};
}

void end_left_over(const AttachmentState& attachment) {
  const fs::path directory = directory_of(attachment.index);
  if (owner_of(directory) != 0) return;
  std::ifstream file(fmt::format("/proc/{}/cmdline", attachment.server_pid));
  const std::string command(std::istreambuf_iterator<char>(file), {});
  if (attachment.server_pid > 0 && command.find(all_directories()) != command.npos)
    ::kill(attachment.server_pid, SIGTERM);
  std::error_code ignored;
  fs::remove_all(directory, ignored);
}

}  // namespace tidepool::blockdev::attach
