#include "tests/lib/null_store.h"

#include <cstring>

#include "base/checked.h"
#include "blockdev/request_check.h"

namespace tidepool::test {

namespace {

class NullChannel final : public blockdev::IoChannel {
 public:
  explicit NullChannel(const blockdev::Geometry& geometry) : geometry_(geometry) {}

  void submit(blockdev::IoRequest& request) override {
    const int error = blockdev::refusal(geometry_, request);
    if (error == 0 && request.op == blockdev::IoOp::read) {
      for (unsigned i = 0; i < request.buffer_count; ++i) {
        std::memset(request.buffers[i].iov_base, 0, request.buffers[i].iov_len);
      }
    }
    request.complete(request, error);
  }

 private:
  const blockdev::Geometry geometry_;
};

}  // namespace

Result<std::unique_ptr<blockdev::IoChannel>> NullStore::open_channel(EventLoop&) {
  return std::make_unique<NullChannel>(geometry());
}

Result<> NullStore::locate(std::uint64_t offset, std::uint64_t length,
                           const std::function<bool(const blockdev::Range&)>& sink) {
  if (!range_fits(offset, length, size_)) {
    return fail(ErrorKind::invalid_argument, "no range {}+{} in '{}' of {} bytes", offset, length,
                name_, size_);
  }
  if (length > 0) sink({offset, length, blockdev::RangeKind::hole, 0});
  return {};
}

}  // namespace tidepool::test
