#include "tests/lib/pool_driver.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace tidepool::test {

using blockdev::IoOp;
using blockdev::IoRequest;

namespace {

template <class T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::abort();
}

struct Waited : IoRequest {
  std::optional<int> error;
};

}  // namespace

PoolDriver::PoolDriver(pool::Pool& pool)
    : pool_(pool),
      loop_(must(EventLoop::create(EventLoop::Options{}))),
      channel_(must(pool::PoolChannel::open(pool, *loop_))) {}

int PoolDriver::run(pool::Disk& disk, IoRequest& request) {
  auto& waited = static_cast<Waited&>(request);
  request.complete = [](IoRequest& self, int error) { static_cast<Waited&>(self).error = error; };
  channel_->submit(disk, request);
  while (!waited.error)
    if (!loop_->poll(true)) return EIO;
  return *waited.error;
}

int PoolDriver::read(pool::Disk& disk, std::uint64_t offset, std::span<std::byte> data) {
  Waited request;
  iovec buffer{data.data(), data.size()};
  request.op = IoOp::read;
  request.offset = offset;
  request.length = data.size();
  request.buffers = &buffer;
  request.buffer_count = 1;
  return run(disk, request);
}

int PoolDriver::write(pool::Disk& disk, std::uint64_t offset, std::span<const std::byte> data,
                      bool force_unit_access) {
  Waited request;
  iovec buffer{const_cast<std::byte*>(data.data()), data.size()};
  request.op = IoOp::write;
  request.force_unit_access = force_unit_access;
  request.offset = offset;
  request.length = data.size();
  request.buffers = &buffer;
  request.buffer_count = 1;
  return run(disk, request);
}

int PoolDriver::change(pool::Disk& disk, IoOp op, std::uint64_t offset, std::uint64_t length) {
  Waited request;
  request.op = op;
  request.offset = offset;
  request.length = length;
  return run(disk, request);
}

int PoolDriver::truncate(pool::Disk& disk, std::uint64_t old_size, std::uint64_t new_size) {
  if (new_size < old_size)
    if (int error = change(disk, IoOp::discard, new_size, old_size - new_size)) return error;
  auto result = pool_.set_size(disk, new_size);
  return result ? 0 : result.error().errno_value;
}

}  // namespace tidepool::test
