// nfs_load URI: one load for some seconds, and its figure: requests a second, or with --bytes
// bytes a second.
//
//   nfs://...          through our store
//   nfs://... --plain  by libnfs alone, its calls on files, one connection
//   nbd://..., nbd+unix://...  through our store of an NBD export
//   iscsi://...        by libiscsi, a logical unit with blocks of 512 bytes
//   vhost-user:PATH    as a virtual machine's driver of virtio-scsi, such a unit
//
// Limits: as bench/load.h has them; content is not verified.
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <nfsc/libnfs.h>

#include <cstdio>
#include <memory>

#include "blockdev/stores/nbd_store.h"
#include "blockdev/stores/nfs_store.h"
#include "tests/bench/peer.h"
#include "tests/bench/scsi_queue.h"

namespace {

using namespace tidepool;
using bench::Job;
using bench::Peer;
using blockdev::IoOp;

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

class PlainLibnfs final : public Peer {
 public:
  explicit PlainLibnfs(const Job& job) : Peer(job), nfs_(nfs_init_context()) {
    struct nfs_url* const url = nfs_parse_url_full(nfs_, job.uri.c_str());
    if (url == nullptr || nfs_mount(nfs_, url->server, url->path) != 0 ||
        nfs_open(nfs_, url->file, O_RDWR, &file_) != 0)
      judge::die("'%s': %s", job.uri.c_str(), nfs_get_error(nfs_));
    nfs_destroy_url(url);
  }
  ~PlainLibnfs() override {
    nfs_close(nfs_, file_);
    nfs_destroy_context(nfs_);
  }

 private:
  static void answered(int status, nfs_context*, void* data, void* self) {
    auto& slot = *static_cast<Slot*>(self);
    auto& peer = static_cast<PlainLibnfs&>(*slot.peer);
    if (status != static_cast<int>(peer.job_.load.block)) judge::die("libnfs: %d", status);
    peer.completed(slot, peer.writes() ? nullptr : data);
  }
  void submit(Slot& slot, std::uint64_t offset, unsigned char* data) override {
    const int error =
        writes() ? nfs_pwrite_async(nfs_, file_, offset, job_.load.block, data, answered, &slot)
                 : nfs_pread_async(nfs_, file_, offset, job_.load.block, answered, &slot);
    if (error != 0) judge::die("libnfs: %s", nfs_get_error(nfs_));
  }
  void serve() override {
    poll_on(nfs_get_fd(nfs_), nfs_which_events(nfs_),
            [this](int events) { return nfs_service(nfs_, events); });
  }

  nfs_context* const nfs_;
  nfsfh* file_ = nullptr;
};

class Initiator final : public Peer {
 public:
  explicit Initiator(const Job& job)
      : Peer(job), iscsi_(iscsi_create_context("iqn.2026-11.test:load")) {
    iscsi_url* const url = iscsi_parse_full_url(iscsi_, job.uri.c_str());
    if (url == nullptr) judge::die("%s", iscsi_get_error(iscsi_));
    lun_ = url->lun;
    iscsi_set_session_type(iscsi_, ISCSI_SESSION_NORMAL);
    iscsi_set_targetname(iscsi_, url->target);
    iscsi_set_header_digest(iscsi_, ISCSI_HEADER_DIGEST_NONE);
    if (iscsi_full_connect_sync(iscsi_, url->portal, lun_) != 0)
      judge::die("%s", iscsi_get_error(iscsi_));
    iscsi_destroy_url(url);
  }
  ~Initiator() override {
    iscsi_logout_sync(iscsi_);
    iscsi_destroy_context(iscsi_);
  }

 private:
  static constexpr int block_size = 512;

  static void answered(iscsi_context*, int status, void* data, void* self) {
    auto& slot = *static_cast<Slot*>(self);
    const std::unique_ptr<scsi_task, void (*)(scsi_task*)> task(static_cast<scsi_task*>(data),
                                                                scsi_free_scsi_task);
    if (status != SCSI_STATUS_GOOD) judge::die("iSCSI: status %d", status);
    auto& peer = static_cast<Initiator&>(*slot.peer);
    peer.completed(slot, peer.writes() ? nullptr : task->datain.data);
  }
  void submit(Slot& slot, std::uint64_t offset, unsigned char* data) override {
    const std::uint64_t first = offset / block_size;
    const scsi_task* const task =
        writes() ? iscsi_write16_task(iscsi_, lun_, first, data, job_.load.block, block_size, 0, 0,
                                      0, 0, 0, answered, &slot)
                 : iscsi_read16_task(iscsi_, lun_, first, job_.load.block, block_size, 0, 0, 0, 0,
                                     0, answered, &slot);
    if (task == nullptr) judge::die("iSCSI: %s", iscsi_get_error(iscsi_));
  }
  void serve() override {
    poll_on(iscsi_get_fd(iscsi_), iscsi_which_events(iscsi_),
            [this](int events) { return iscsi_service(iscsi_, events); });
  }

  iscsi_context* const iscsi_;
  int lun_ = 0;
};

double requests_per_second(const Job& job, bool plain) {
  if (plain) return PlainLibnfs(job).requests_per_second();
  if (job.uri.starts_with("iscsi://")) return Initiator(job).requests_per_second();
  if (job.uri.starts_with("vhost-user:")) {
    return must(bench::open_scsi_queue(job))->requests_per_second();
  }
  const auto store = must(blockdev::is_nfs_uri(job.uri) ? blockdev::open_nfs_store(job.uri, {})
                                                        : blockdev::open_nbd_store(job.uri, {}));
  return must(run_load(*store, job.load, job.span, job.time, job.seed)).requests_per_second;
}

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(argc, argv, {"span", "block", "depth", "milliseconds", "seed"},
                               {"plain", "write", "random", "bytes"},
                               "usage: nfs_load URI --span BYTES [--plain] [--write] [--random] "
                               "[--block BYTES] [--depth N]\n"
                               "       [--milliseconds N] [--seed N] [--bytes]");
  if (options.words.size() != 1) options.usage_error("one URI is wanted");
  Job job;
  job.uri = options.words[0];
  job.load = {.name = job.uri,
              .op = options.has("write") ? IoOp::write : IoOp::read,
              .random = options.has("random"),
              .block = static_cast<std::uint32_t>(options.number("block", 4096)),
              .depth = static_cast<unsigned>(options.number("depth", 32))};
  job.span = options.number("span", 0);
  if (job.span < job.load.block) options.usage_error("a span of at least a block is wanted");
  job.time = std::chrono::milliseconds(options.number("milliseconds", 1000));
  job.seed = options.number("seed", 1);
  const double rate = requests_per_second(job, options.has("plain"));
  std::printf("%.0f\n", options.has("bytes") ? rate * job.load.block : rate);
  return 0;
}
