// One disk of a pool as a BlockStore of fixed size.
#include "fs/pool/pool_channel.h"
#include "fs/pool/pool_impl.h"

namespace tidepool::pool {

namespace {

class DiskChannel : public blockdev::IoChannel {
 public:
  DiskChannel(std::unique_ptr<PoolChannel> channel, Disk& disk, std::uint64_t size)
      : channel_(std::move(channel)), disk_(disk), size_(size) {}

  void submit(blockdev::IoRequest& request) override {
    bool fits = request.offset <= size_ && request.length <= size_ - request.offset;
    if (request.op != blockdev::IoOp::flush && !fits) return request.complete(request, EINVAL);
    channel_->submit(disk_, request);
  }

 private:
  std::unique_ptr<PoolChannel> channel_;
  Disk& disk_;
  const std::uint64_t size_;
};

class DiskStore : public blockdev::BlockStore {
 public:
  DiskStore(Pool& pool, Disk& disk, std::string name, std::uint64_t size)
      : pool_(pool), disk_(disk), name_(std::move(name)), size_(size) {}
  ~DiskStore() override { pool_.release(&disk_); }

  const std::string& name() const override { return name_; }

  blockdev::Geometry geometry() const override {
    blockdev::Geometry g;
    g.size = size_;
    g.read_only = pool_.impl().options.read_only;
    g.can_discard = true;
    return g;
  }

  Result<std::unique_ptr<blockdev::IoChannel>> open_channel(EventLoop& loop) override {
    auto channel = PoolChannel::open(pool_, loop);
    if (!channel) return std::unexpected(channel.error());
    return std::make_unique<DiskChannel>(std::move(*channel), disk_, size_);
  }

  Result<> locate(std::uint64_t offset, std::uint64_t length,
                  const std::function<bool(const blockdev::Range&)>& sink) override {
    return pool_.locate(disk_, offset, length, sink);
  }

 private:
  Pool& pool_;
  Disk& disk_;
  const std::string name_;
  const std::uint64_t size_;
};

}  // namespace

Result<std::shared_ptr<blockdev::BlockStore>> open_disk_store(Pool& pool, NodeId id) {
  auto attributes = pool.attributes(id);
  if (!attributes) return std::unexpected(attributes.error());
  auto vm_name = pool.name_of(attributes->parent), name = pool.name_of(id);
  if (!vm_name) return std::unexpected(vm_name.error());
  if (!name) return std::unexpected(name.error());
  auto disk = pool.hold(id);
  if (!disk) return std::unexpected(disk.error());
  return std::make_shared<DiskStore>(pool, **disk, *vm_name + "/" + *name, attributes->size);
}

}  // namespace tidepool::pool
