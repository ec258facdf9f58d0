// What the tests of a whole pool share: a pool on a store with faults on demand,
// and requests that may be under way while others are submitted.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "fs/pool/check.h"
#include "fs/pool/pool.h"
#include "fs/pool/pool_channel.h"
#include "fs/pool/pool_state.h"
#include "tests/lib/fault_store.h"
#include "tests/lib/pool_driver.h"
#include "tests/lib/simulated_store.h"

namespace tidepool::pool {

using blockdev::IoOp;
using test::FaultStore;
using test::PoolDriver;
using test::SimulatedStore;
using Bytes = std::vector<std::byte>;

inline constexpr std::uint64_t mib = 1 << 20;

inline Bytes filled(std::size_t size, int value) {
  return Bytes(size, static_cast<std::byte>(value));
}

// A request and its buffer; `error` is set when it is complete.
struct Request : blockdev::IoRequest {
  Bytes data;
  iovec buffer{};
  std::optional<int> error;
  bool done() const { return error.has_value(); }
};

// Several requests at a time, on one thread.
class Queue {
 public:
  explicit Queue(Pool& pool)
      : loop_(EventLoop::create({}).value()), channel_(PoolChannel::open(pool, *loop_).value()) {}

  std::unique_ptr<Request> submit(Disk& disk, IoOp op, std::uint64_t offset, std::uint64_t length) {
    return submit(disk, op, offset, length, {});
  }
  std::unique_ptr<Request> write(Disk& disk, std::uint64_t offset, Bytes data) {
    std::uint64_t length = data.size();
    return submit(disk, IoOp::write, offset, length, std::move(data));
  }
  std::unique_ptr<Request> read(Disk& disk, std::uint64_t offset, std::uint64_t length) {
    return submit(disk, IoOp::read, offset, length, Bytes(length));
  }
  void poll() { ASSERT_TRUE(loop_->poll(false)); }
  int wait(const Request& request) {
    while (!request.done())
      if (!loop_->poll(true)) return EIO;
    return *request.error;
  }

 private:
  std::unique_ptr<Request> submit(Disk& disk, IoOp op, std::uint64_t offset, std::uint64_t length,
                                  Bytes data) {
    auto request = std::make_unique<Request>();
    request->op = op;
    request->offset = offset;
    request->length = length;
    request->data = std::move(data);
    request->buffer = {request->data.data(), request->data.size()};
    request->buffers = &request->buffer;
    request->buffer_count = request->data.empty() ? 0 : 1;
    request->complete = [](blockdev::IoRequest& self, int error) {
      static_cast<Request&>(self).error = error;
    };
    channel_->submit(disk, *request);
    return request;
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<PoolChannel> channel_;
};

// A small pool in memory with two VMs, "a" and "b". Without a commit thread
// unless a test asks for one.
class PoolTest : public testing::Test {
 protected:
  PoolTest() {
    log().set_level(spdlog::level::off);  // failures are the point of some tests
    CreateOptions create;
    create.chunk_bytes = 64 * 1024;
    auto made = Pool::create(*below, create);
    EXPECT_TRUE(made) << made.error().message;
    options.background = false;
    open();
    a = pool->make_vm("a", 0700, 0, 0)->id;
    b = pool->make_vm("b", 0700, 0, 0)->id;
  }
  ~PoolTest() override {
    store->clear();
    close();
  }

  void open() {
    auto opened = Pool::open(store, options);
    if (!opened) {
      ADD_FAILURE() << opened.error().message;
      std::abort();
    }
    pool = std::move(*opened);
    driver = std::make_unique<PoolDriver>(*pool);
    queue = std::make_unique<Queue>(*pool);
  }
  void close() {
    for (Disk* disk : std::exchange(held, {})) pool->release(disk);
    driver.reset();
    queue.reset();
    pool.reset();
  }
  void reopen() {
    close();
    open();
  }
  void reopen_with_thread() {
    options.background = true;
    reopen();
  }

  Disk& hold(NodeId id) {
    held.push_back(pool->hold(id).value());
    return *held.back();
  }
  Disk& make(NodeId vm, const std::string& name) {
    return hold(pool->make_disk(vm, name, 0600, 0, 0).value().id);
  }
  Disk& find(NodeId vm, const std::string& name) { return hold(pool->lookup(vm, name).value().id); }
  void let_go(Disk& disk) {
    std::erase(held, &disk);
    pool->release(&disk);
  }
  Bytes read(Disk& disk, std::uint64_t offset, std::uint64_t length) {
    Bytes data = filled(length, 0x5a);
    EXPECT_EQ(driver->read(disk, offset, data), 0);
    return data;
  }
  int write(Disk& disk, std::uint64_t offset, std::uint64_t length, int value) {
    return driver->write(disk, offset, filled(length, value));
  }
  std::uint64_t free_bytes() {
    PoolFigures f = pool->figures();
    return f.data_bytes - f.used_bytes;
  }
  // Block by block to the last one.
  void fill_pool(Disk& disk) {
    std::uint64_t bytes = free_bytes();
    ASSERT_EQ(write(disk, 0, bytes, 0xf1), 0);
    ASSERT_EQ(free_bytes(), 0U);
  }
  // What is there is sound, by the judgement of check.
  void expect_sound() {
    auto report = check_pool(*store, false);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(report->findings.empty()) << report->findings.front();
    EXPECT_TRUE(report->losses.empty());
  }

  std::shared_ptr<SimulatedStore> below = SimulatedStore::open(16 * mib);
  std::shared_ptr<FaultStore> store = std::make_shared<FaultStore>(below);
  PoolOptions options;
  std::unique_ptr<Pool> pool;
  std::unique_ptr<PoolDriver> driver;
  std::unique_ptr<Queue> queue;
  std::vector<Disk*> held;
  NodeId a = 0, b = 0;
};

}  // namespace tidepool::pool
