#include "tests/bench/scsi_queue.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <string>
#include <utility>

#include "base/byte_order.h"
#include "base/unique_fd.h"
#include "scsi/big_endian.h"
#include "virtio/device.h"
#include "virtio/scsi_request.h"
#include "virtio/vhost_user/front_end.h"

namespace tidepool::bench {

namespace {

using namespace virtio;
using vhost_user::Request;

constexpr std::uint16_t entries = 256, pieces = 4;  // of the queue; descriptors of a request
constexpr unsigned request_queue = 2;               // behind control and event queue
constexpr std::uint16_t next = 1, writable = 2;     // flags of a descriptor
// Where what is in guest memory, whose addresses begin at 0.
constexpr std::uint64_t available = 4096, used = 8192, headers = 65536, data_start = 1 << 20;
constexpr std::uint64_t header_stride = 512, response_offset = 256;
constexpr unsigned block_size = 512;
constexpr std::uint8_t check_condition = 2;
constexpr unsigned sense_key_at = 12 + 2;
constexpr std::byte unit_attention{6};
constexpr std::uint8_t read_16 = 0x88, write_16 = 0x8a;

class ScsiQueue final : public Peer {
 public:
  using Peer::Peer;
  ~ScsiQueue() override {
    front_.reset();
    if (memory_ != nullptr) ::munmap(memory_, length_);
  }

  Result<> connect(const std::string& path) {
    length_ = data_start + job_.load.depth * std::uint64_t{job_.load.block};
    file_.reset(::memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!file_ || ::ftruncate(file_.get(), static_cast<off_t>(length_)) != 0 ||
        ::fcntl(file_.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0)
      return fail_errno(errno, "cannot make a guest's memory");
    void* const mapped =
        ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    if (mapped == MAP_FAILED) return fail_errno(errno, "cannot map a guest's memory");
    memory_ = static_cast<std::byte*>(mapped);
    for (unsigned i = 0; i < job_.load.depth; ++i) write_request(i);
    auto front = vhost_user::FrontEnd::connect(path, vhost_user::protocol_answers,
                                               vhost_user::usual_patience);
    if (!front) return std::unexpected(front.error());
    front_ = std::move(*front);
    return start();
  }

 private:
  Result<> start() {
    constexpr std::uint64_t wanted =
        feature_version_1 | feature_event_index | vhost_user::feature_protocol;
    auto done = front_->set(Request::set_features, wanted);
    const auto base = reinterpret_cast<std::uintptr_t>(memory_);
    const std::array regions{vhost_user::MemoryRegion{0, length_, base, 0}};
    const int file = file_.get(), call = call_.get(), kick = kick_.get();
    if (done) {
      done = front_->set(Request::set_memory_table, vhost_user::encode_memory_table(regions),
                         {&file, 1});
    }
    if (done) done = front_->set_vring(Request::set_vring_size, request_queue, entries);
    if (done) done = front_->set_vring(Request::set_vring_base, request_queue, 0);
    if (done) {
      done = front_->set(Request::set_vring_addresses,
                         vhost_user::encode_vring_addresses(
                             {request_queue, base, base + used, base + available}));
    }
    if (done) done = front_->set(Request::set_vring_call, request_queue, {&call, 1});
    if (done) done = front_->set(Request::set_vring_kick, request_queue, {&kick, 1});
    if (done) done = front_->set_vring(Request::set_vring_enable, request_queue, 1);
    return done;
  }

  std::byte* header(unsigned index) const { return memory_ + headers + index * header_stride; }
  std::byte* data(unsigned index) const {
    return memory_ + data_start + index * std::uint64_t{job_.load.block};
  }

  // All that stays the same from use to use.
  void write_request(unsigned index) {
    std::byte* const request = header(index);
    store_le64(request, 0x40'0001);  // target 0, unit 0: bytes 1, 0, 0x40, 0
    store_le64(request + 8, index);
    request[19] = std::byte{writes() ? write_16 : read_16};
    scsi::store_be32(request + 29, job_.load.block / block_size);
    const std::uint64_t at = headers + index * header_stride;
    const std::uint64_t block = data_start + index * std::uint64_t{job_.load.block};
    describe(index, 0, at, scsi_request_bytes, next);
    if (writes()) {
      judge::Random random(index);
      judge::fill_random(random, reinterpret_cast<unsigned char*>(data(index)), job_.load.block);
      describe(index, 1, block, job_.load.block, next);
      describe(index, 2, at + response_offset, scsi_response_bytes, writable);
    } else {
      describe(index, 1, at + response_offset, scsi_response_bytes, next | writable);
      describe(index, 2, block, job_.load.block, writable);
    }
  }
  void describe(unsigned index, unsigned piece, std::uint64_t address, std::uint32_t length,
                std::uint16_t flags) {
    const unsigned number = index * pieces + piece;
    std::byte* const entry = memory_ + 16ULL * number;
    store_le64(entry, address);
    store_le32(entry + 8, length);
    store_le16(entry + 12, flags);
    store_le16(entry + 14, static_cast<std::uint16_t>(number + 1));
  }

  std::atomic_ref<std::uint16_t> shared(std::uint64_t offset) const {
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(memory_ + offset));
  }

  void submit(Slot& slot, std::uint64_t offset, unsigned char*) override {
    const auto index = static_cast<unsigned>(number_of(slot));
    asked_[index] = &slot;
    scsi::store_be64(header(index) + 21, offset / block_size);
    offer(index);
  }
  void offer(unsigned index) {
    std::byte* const response = header(index) + response_offset;
    response[10] = response[11] = std::byte{0xff};
    shared(available + 4 + 2ULL * (next_available_ % entries))
        .store(static_cast<std::uint16_t>(index * pieces), std::memory_order_relaxed);
    shared(available + 2).store(++next_available_, std::memory_order_release);
  }

  void serve() override {
    kick();
    while (shared(used + 2).load(std::memory_order_acquire) == next_used_) {
      shared(available + 4 + 2ULL * entries).store(next_used_, std::memory_order_relaxed);
      full_barrier();
      if (shared(used + 2).load(std::memory_order_acquire) != next_used_) break;
      poll_on(call_.get(), POLLIN, [this](int) {
        std::uint64_t count = 0;
        return static_cast<int>(::read(call_.get(), &count, sizeof count));
      });
    }
    for (std::uint16_t end = shared(used + 2).load(std::memory_order_acquire);
         next_used_ != end; ++next_used_) {
      const std::uint32_t head = load_le32(memory_ + used + 4 + 8ULL * (next_used_ % entries));
      const unsigned index = head / pieces;
      if (index >= job_.load.depth) judge::die("vhost-user: no request of ours: %u", head);
      const std::byte* const response = header(index) + response_offset;
      if (response[11] == std::byte{0} && scsi::load_be8(response + 10) == check_condition &&
          (response[sense_key_at] & std::byte{0xf}) == unit_attention) {
        offer(index);  // the unit's greeting
        continue;
      }
      if (response[10] != std::byte{0} || response[11] != std::byte{0})
        judge::die("vhost-user: response %u, status %u", scsi::load_be8(response + 11),
                   scsi::load_be8(response + 10));
      completed(*asked_[index], nullptr);
    }
  }
  void kick() {
    full_barrier();
    const std::uint16_t event = shared(used + 4 + 8ULL * entries).load(std::memory_order_relaxed);
    const bool due = static_cast<std::uint16_t>(next_available_ - 1 - event) <
                     static_cast<std::uint16_t>(next_available_ - kicked_at_);
    if (!due) return;
    kicked_at_ = next_available_;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(kick_.get(), &one, sizeof one);
  }

  UniqueFd file_, kick_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}, call_{::eventfd(0, EFD_CLOEXEC)};
  std::byte* memory_ = nullptr;
  std::uint64_t length_ = 0;
  std::unique_ptr<vhost_user::FrontEnd> front_;
  std::array<Slot*, entries / pieces> asked_{};
  std::uint16_t next_available_ = 0, next_used_ = 0, kicked_at_ = 0;
};

}  // namespace

Result<std::unique_ptr<Peer>> open_scsi_queue(const Job& job) {
  if (job.load.depth > entries / pieces)
    return fail(ErrorKind::invalid_argument, "at most {} requests at a time", entries / pieces);
  auto queue = std::make_unique<ScsiQueue>(job);
  if (auto done = queue->connect(job.uri.substr(job.uri.find(':') + 1)); !done)
    return std::unexpected(done.error());
  return queue;
}

}  // namespace tidepool::bench
