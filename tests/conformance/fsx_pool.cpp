// fsx_pool POOL-FILE: random operations on a disk of a pool in process, without
// FUSE, against a copy in memory (fsx_core.h). A reopen closes the pool and
// recovers it from its file.
#include "blockdev/stores/file_store.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"
#include "tests/conformance/fsx_core.h"

namespace {

using namespace tidepool;
using judge::RangeCall;

constexpr const char* vm_name = "vm";
constexpr const char* disk_name = "disk";

template <class T>
T must(Result<T> result) {
  if (!result) judge::die("%s", result.error().message.c_str());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

template <class T>
int errno_of(const Result<T>& result) {
  return result ? 0 : result.error().errno_value;
}

class PoolTarget : public judge::FsxTarget {
 public:
  explicit PoolTarget(std::string path)
      : path_(std::move(path)), loop_(must(EventLoop::create({}))) {
    std::shared_ptr<blockdev::FileStore> store = must(blockdev::FileStore::open(path_, {}));
    must(pool::Pool::create(*store, {}, true));
    store.reset();
    open_pool();
    const auto vm = must(pool_->make_vm(vm_name, 0700, 0, 0));
    must(pool_->make_disk(vm.id, disk_name, 0600, 0, 0));
    hold();
  }
  ~PoolTarget() override { close_pool(); }
  PoolTarget(const PoolTarget&) = delete;
  PoolTarget& operator=(const PoolTarget&) = delete;

  Capabilities capabilities() const override { return {.alignment = 0}; }

  int read(std::uint64_t offset, std::span<unsigned char> data, bool) override {
    const iovec vector{data.data(), data.size()};
    return run(blockdev::IoOp::read, offset, data.size(), &vector);
  }
  int write(std::uint64_t offset, std::span<const unsigned char> data, bool) override {
    const iovec vector{const_cast<unsigned char*>(data.data()), data.size()};
    return run(blockdev::IoOp::write, offset, data.size(), &vector);
  }
  int map_read(std::uint64_t, std::span<unsigned char>) override { return ENOTSUP; }
  int map_write(std::uint64_t, std::span<const unsigned char>, bool) override { return ENOTSUP; }

  int truncate(std::uint64_t bytes) override {
    std::uint64_t now = 0;
    if (const int error = size(now)) return error;
    if (bytes < now)
      if (const int error = run(blockdev::IoOp::discard, bytes, now - bytes, nullptr)) return error;
    return errno_of(pool_->set_size(*disk_, bytes));
  }
  int range(RangeCall call, bool, std::uint64_t offset, std::uint64_t length) override {
    std::uint64_t now = 0;
    if (const int error = size(now)) return error;
    if (offset >= now) return 0;
    length = std::min(length, now - offset);
    return run(call == RangeCall::punch  ? blockdev::IoOp::discard
               : call == RangeCall::zero ? blockdev::IoOp::zero
                                         : blockdev::IoOp::allocate,
               offset, length, nullptr);
  }
  int sync(bool data_only) override {
    return data_only ? run(blockdev::IoOp::flush, 0, 0, nullptr) : errno_of(pool_->commit());
  }
  int reopen() override {
    if (const int error = sync(false)) return error;
    close_pool();
    open_pool();
    hold();
    return 0;
  }
  int drop_caches() override { return 0; }
  int size(std::uint64_t& bytes) override {
    const auto attributes = pool_->attributes(node_);
    if (attributes) bytes = attributes->size;
    return errno_of(attributes);
  }
  int seek(bool data, std::uint64_t offset, std::uint64_t& found) override {
    std::uint64_t end = 0;
    if (const int error = size(end)) return error;
    if (offset >= end) return ENXIO;
    found = end;
    const auto located =
        pool_->locate(*disk_, offset, end - offset, [&](const blockdev::Range& range) {
          if ((range.kind == blockdev::RangeKind::data) != data) return true;
          found = std::max(offset, range.offset);
          return false;
        });
    if (!located) return errno_of(located);
    return data && found == end ? ENXIO : 0;
  }

 private:
  struct Call {
    blockdev::IoRequest request;
    int error = 0;
    bool done = false;
  };

  int run(blockdev::IoOp op, std::uint64_t offset, std::uint64_t length, const iovec* vector) {
    Call call;
    call.request.op = op;
    call.request.offset = offset;
    call.request.length = length;
    call.request.buffers = vector;
    call.request.buffer_count = vector ? 1 : 0;
    call.request.complete = [](blockdev::IoRequest& request, int error) {
      auto& self = reinterpret_cast<Call&>(request);
      self.error = error;
      self.done = true;
    };
    channel_->submit(*disk_, call.request);
    while (!call.done) must(loop_->poll(true));
    return call.error;
  }

  void open_pool() {
    std::shared_ptr<blockdev::FileStore> store = must(blockdev::FileStore::open(path_, {}));
    pool_ = must(pool::Pool::open(std::move(store), {}));
    channel_ = must(pool::PoolChannel::open(*pool_, *loop_));
  }
  void hold() {
    const auto vm = must(pool_->lookup(pool::root_id, vm_name));
    node_ = must(pool_->lookup(vm.id, disk_name)).id;
    disk_ = must(pool_->hold(node_));
  }
  void close_pool() {
    pool_->release(disk_);
    channel_.reset();
    pool_.reset();
  }

  const std::string path_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<pool::Pool> pool_;
  std::unique_ptr<pool::PoolChannel> channel_;
  pool::NodeId node_ = 0;
  pool::Disk* disk_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  const judge::FsxCommand command(argc, argv, {}, "usage: fsx_pool POOL-FILE (is overwritten)");
  const judge::Fd file(open(command.path().c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid() ||
      ftruncate(file.get(), static_cast<off_t>(command.fsx.max_size * 2 + (256 << 20))) < 0)
    judge::die("cannot make %s: %s", command.path().c_str(), std::strerror(errno));
  PoolTarget target(command.path());
  judge::Fsx(target, command.fsx).run();
}
