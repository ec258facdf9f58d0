// A driver that lies, on the whole way that a guest has: configuration space, BARs, MSI-X
// tables, and rings in memory, of a block device, a network card, a console and a source of
// entropy on one PCI bus. Beside them stands a disk whose driver is honest, in memory of its
// own: it must go on answering, and hold what was written.
//
// The judge: the process lives (under AddressSanitizer too), what lies beside the guest's
// memory is untouched, devices say that they are broken, and each works after a reset.
// Needs /dev/kvm, for interrupt routes and doorbells; no vCPU runs.
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/byte_order.h"
#include "base/log.h"
#include "tests/lib/judge.h"
#include "tests/lib/must.h"
#include "tests/lib/queue_driver.h"
#include "tests/lib/simulated_store.h"
#include "virtio/block_device.h"
#include "virtio/console_device.h"
#include "virtio/entropy_device.h"
#include "virtio/net_device.h"
#include "vmm/memory/memory_layout.h"
#include "vmm/pci/virtio_pci.h"

namespace {

using namespace tidepool;
using test::must;
using judge::die;
using judge::Random;
using test::QueueDriver;
using test::TestMemory;
using vmm::VirtioPci;

constexpr std::uint64_t storm_bytes = 256 << 10;  // what the liar writes to
constexpr std::uint64_t honest_bytes = 64 << 10;  // behind it, for what comes after
constexpr std::uint64_t disk_bytes = 64 << 10;
constexpr std::uint64_t check_every = 50'000;  // operations
constexpr std::uint16_t ring_entries = 16;
constexpr unsigned one_wrong_in =
    60;  // fields: a device that never gets beyond a first chain learns little
// The common configuration's fields (Virtual I/O Device 1.2, section 4.1.4.3).
enum Common : std::uint64_t {
  driver_feature_select = 8,
  driver_feature = 12,
  device_status = 20,
  queue_select = 22,
  queue_size = 24,
  queue_vector = 26,
  queue_enable = 28,
  queue_descriptors = 32,
  queue_available = 40,
  queue_used = 48,
  common_end = 56,
};
constexpr std::uint64_t device_page = 0x2000, doorbell_page = 0x3000, table_page = 0x4000;

class SocketPort final : public virtio::PacketPort {
 public:
  explicit SocketPort(UniqueFd socket) : socket_(std::move(socket)) {}
  const std::string& name() const override { return name_; }
  int descriptor() const override { return socket_.get(); }
  Result<> set_offloads(const virtio::PacketOffloads&) override { return {}; }

 private:
  const std::string name_ = "socket";
  const UniqueFd socket_;
};

struct Function {
  std::unique_ptr<VirtioPci> pci;
  unsigned slot = 0;        // on the bus
  std::uint64_t bar = 0;    // where it was put at first
  std::uint64_t rings = 0;  // guest address: a page for each queue
  std::size_t queues = 0;
};

class Board {
 public:
  Board() : vm_(must(vmm::KvmVm::create())), routes_(*vm_) {
    must(routes_.install());
    must(memory_.add(vmm::ecam_address, vmm::ecam_bytes, bus_.mapped_config()));
    must(ports_.add(vmm::PciBus::config_port, vmm::PciBus::config_ports, bus_.config_by_ports()));
  }
  Function add(std::unique_ptr<virtio::Device> device, const TestMemory& memory) {
    device->connect(memory.map());
    for (virtio::MemoryWriter* writer : device->writers()) writer->start_tracking();
    const std::size_t queues = device->queue_sizes().size();
    const std::uint64_t bar = vmm::pci_window + slots_ * VirtioPci::bar_bytes;
    Function out{must(VirtioPci::create({*vm_, routes_, memory_}, std::move(device),
                                        static_cast<std::uint32_t>(bar))),
                 ++slots_, bar, 0, queues};
    must(bus_.add(*out.pci));
    return out;
  }
  void write(std::uint64_t address, std::uint64_t value, std::size_t length) {
    std::array<std::byte, 8> bytes{};
    store_le64(bytes.data(), value);
    memory_.write(address, std::span(bytes).first(length));
  }
  std::uint64_t read(std::uint64_t address, std::size_t length) {
    std::array<std::byte, 8> bytes{};
    memory_.read(address, std::span(bytes).first(length));
    return load_le64(bytes.data());
  }
  void write_port(std::uint64_t port, std::uint64_t value, std::size_t length) {
    std::array<std::byte, 8> bytes{};
    store_le64(bytes.data(), value);
    ports_.write(port, std::span(bytes).first(length));
  }
  static std::uint64_t config(const Function& f, std::uint64_t offset) {
    return vmm::ecam_address + (std::uint64_t{f.slot} << 15) + offset;
  }

 private:
  const std::unique_ptr<vmm::KvmVm> vm_;
  vmm::InterruptRoutes routes_;
  vmm::Bus memory_, ports_;
  vmm::PciBus bus_;
  unsigned slots_ = 0;
};

// As a driver of good will: decode memory, then queues one after the other.
void place(Board& board, const Function& f) {
  board.write(Board::config(f, 0x10), f.bar, 4);
  board.write(Board::config(f, 4), 6, 2);  // memory, bus master
}
void start(Board& board, const Function& f, std::span<const virtio::QueueLayout> queues) {
  const auto set = [&](std::uint64_t field, std::uint64_t value, std::size_t length) {
    board.write(f.bar + field, value, length);
  };
  set(device_status, 0, 1);
  set(device_status, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER, 1);
  const std::uint64_t features = f.pci->device().features() & ~virtio::feature_event_index;
  for (unsigned half = 0; half < 2; ++half) {
    set(driver_feature_select, half, 4);
    set(driver_feature, features >> 32 * half & UINT32_MAX, 4);
  }
  const std::uint64_t agreed =
      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
  set(device_status, agreed, 1);
  for (std::size_t i = 0; i < queues.size(); ++i) {
    set(queue_select, i, 2);
    set(queue_size, queues[i].size, 2);
    set(queue_vector, i, 2);
    const std::array<std::pair<std::uint64_t, std::uint64_t>, 3> parts{
        {{queue_descriptors, queues[i].descriptors},
         {queue_available, queues[i].available},
         {queue_used, queues[i].used}}};
    for (const auto& [field, address] : parts) {
      set(field, address & UINT32_MAX, 4);
      set(field + 4, address >> 32, 4);
    }
    set(queue_enable, 1, 2);
  }
  set(device_status, agreed | VIRTIO_CONFIG_S_DRIVER_OK, 1);
}
void kick(Board& board, const Function& f, std::size_t queue) {
  board.write(f.bar + doorbell_page + 4 * queue, queue, 2);
}
QueueDriver::Used wait_used(QueueDriver& driver, const char* who) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (std::chrono::steady_clock::now() < end) {
    if (const auto used = driver.poll()) return *used;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  die("%s does not answer", who);
}

// A disk with one queue and a driver of good will.
class HonestDisk {
 public:
  HonestDisk(Board& board, const Function& function, TestMemory& memory)
      : board_(board), function_(function), memory_(memory), driver_(memory, ring_entries, false) {
    header_ = memory.take(16);
    data_ = memory.take(512);
    status_ = memory.take(1);
    place(board, function);
    start(board, function, std::array{driver_.layout()});
  }
  // Writes a sector with what only this round has, reads it back.
  void check(std::uint64_t round) {
    const std::uint64_t sector = round % (disk_bytes / 512);
    for (unsigned i = 0; i < 512; i += 8) memory_.put(data_ + i, round * 0x9e3779b97f4a7c15U + i);
    run(VIRTIO_BLK_T_OUT, sector);
    for (unsigned i = 0; i < 512; i += 8) memory_.put(data_ + i, std::uint64_t{0});
    run(VIRTIO_BLK_T_IN, sector);
    for (unsigned i = 0; i < 512; i += 8) {
      if (memory_.get<std::uint64_t>(data_ + i) != round * 0x9e3779b97f4a7c15U + i)
        die("the honest driver's disk reads other data");
    }
  }

 private:
  void run(std::uint32_t type, std::uint64_t sector) {
    memory_.put(header_, type);
    memory_.put(header_ + 8, sector);
    memory_.put(status_, std::uint8_t{0xff});
    driver_.add({{header_, 16, false}, {data_, 512, type == VIRTIO_BLK_T_IN}, {status_, 1, true}},
                false);
    kick(board_, function_, 0);
    wait_used(driver_, "the honest driver's disk");
    if (memory_.get<std::uint8_t>(status_) != 0) die("the honest driver's request fails");
  }
  Board& board_;
  const Function& function_;
  TestMemory& memory_;
  QueueDriver driver_;
  std::uint64_t header_ = 0, data_ = 0, status_ = 0;
};

struct Counts {
  std::uint64_t accesses = 0, chains = 0, kicks = 0, resets = 0, broken = 0;
};

// What the liar does, one thing at a time.
class Liar {
 public:
  Liar(Board& board, TestMemory& memory, std::span<Function> functions, Random& random)
      : board_(board), memory_(memory), functions_(functions), random_(random) {
    data_ = TestMemory::base + storm_bytes / 2;
    std::uint64_t page = TestMemory::base;
    for (Function& f : functions_) {
      f.rings = page;
      page += f.queues * 4096;
      settle(f);
    }
  }
  const Counts& counts() const { return counts_; }

  void act() {
    ++counts_.accesses;
    Function& f = functions_[random_.below(functions_.size())];
    const std::uint64_t kind = random_.below(1000);
    if (kind < 450) return offer_chain(f);
    if (kind < 550) return scribble();
    if (kind < 650) return touch_bar(f);
    if (kind < 720) return touch_table(f);
    if (kind < 800) return touch_config(f);
    if (kind < 996) return observe(f);
    settle(f);
  }

 private:
  std::uint64_t at_ring(const Function& f, std::size_t queue, std::uint64_t offset) const {
    return f.rings + 4096 * queue + offset;
  }
  // As the rings lie in a queue's page.
  static constexpr std::uint64_t available_at = 1024, used_at = 2048;

  // A live device again, as often as it takes to lie to one that listens.
  void settle(Function& f) {
    ++counts_.resets;
    place(board_, f);
    std::vector<virtio::QueueLayout> layouts;
    for (std::size_t q = 0; q < f.queues; ++q) {
      std::memset(memory_.at(at_ring(f, q, 0)), 0, 4096);
      layouts.push_back(
          {ring_entries, at_ring(f, q, 0), at_ring(f, q, available_at), at_ring(f, q, used_at)});
    }
    start(board_, f, layouts);
  }
  void put_at(std::uint64_t guest, std::uint64_t value, std::size_t length) {
    std::memcpy(memory_.at(guest), &value, length);
  }
  std::uint64_t any_address() {
    switch (random_.below(8)) {
      case 0:
        return random_.next();
      case 1:
        return TestMemory::base + storm_bytes + honest_bytes - random_.below(64);
      case 2:
        return UINT64_MAX - random_.below(8192);
      case 3:
        return random_.below(2 * TestMemory::base);
      default:
        return data_ + random_.below(storm_bytes / 2);
    }
  }
  // A request of the kind that the device takes, with a field or two that are wrong.
  void offer_chain(Function& f) {
    ++counts_.chains;
    const std::size_t queue = random_.below(f.queues);
    constexpr std::uint64_t most_pieces = 4;
    const std::uint64_t head = most_pieces * random_.below(ring_entries / most_pieces);
    const std::uint64_t pieces = 1 + random_.below(most_pieces);
    const std::uint64_t header = data_ + 16 * random_.below(64);
    constexpr std::array<std::uint32_t, 8> types{0, 1, 4, 8, 11, 13, 2, 0xffffffff};
    const std::uint32_t type = types[random_.below(types.size())];
    put_at(header, type, 4);
    put_at(header + 8, random_.chance(8) ? random_.next() : random_.below(disk_bytes / 512), 8);
    // Which pieces are the device's to write: by the kind of the device and the queue.
    const bool is_disk = f.pci->device().id() == VIRTIO_ID_BLOCK;
    const bool fills =
        is_disk ? type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID : queue == 0;
    for (std::uint64_t i = 0; i < pieces; ++i) {
      const std::uint64_t index = (head + i) % ring_entries;
      const bool last = i + 1 == pieces;
      const bool writable = is_disk ? i > 0 && (fills || last) : fills;
      std::uint64_t address = i == 0 ? header : data_ + random_.below(storm_bytes / 4);
      std::uint64_t length = i == 0 ? 16 : last ? 1 + random_.below(2) : 512;
      std::uint64_t flags = (last ? 0 : 1) | (writable ? 2 : 0);
      std::uint64_t next = (index + 1) % ring_entries;
      if (random_.chance(one_wrong_in)) address = any_address();
      if (random_.chance(one_wrong_in)) length = random_.size_up_to(UINT32_MAX);
      if (random_.chance(one_wrong_in)) flags = random_.below(random_.chance(4) ? 0x10000 : 8);
      if (random_.chance(one_wrong_in)) next = random_.below(0x10000);
      const std::uint64_t at = at_ring(f, queue, 16 * index);
      put_at(at, address, 8);
      put_at(at + 8, length, 4);
      put_at(at + 12, flags, 2);
      put_at(at + 14, next, 2);
    }
    const std::uint64_t index = at_ring(f, queue, available_at + 2);
    const auto now = memory_.get<std::uint16_t>(index);
    put_at(at_ring(f, queue, available_at + 4 + 2 * (now % ring_entries)),
           random_.chance(200) ? random_.below(0x10000) : head, 2);
    const std::uint64_t jump = random_.chance(2000) ? random_.below(0x10000) : 1;
    memory_.put(index, static_cast<std::uint16_t>(now + jump));
    if (!random_.chance(4)) ring(f, queue);
  }
  // Now and then it waits a little: else no device would get to anything before the next
  // reset.
  void ring(Function& f, std::size_t queue) {
    ++counts_.kicks;
    const std::uint64_t used = at_ring(f, queue, used_at + 2);
    const auto before = memory_.get<std::uint16_t>(used);
    kick(board_, f, queue);
    if (!random_.chance(4)) return;
    for (int i = 0; i < 50 && memory_.get<std::uint16_t>(used) == before; ++i)
      std::this_thread::yield();
  }
  void scribble() {
    const std::uint64_t at = random_.below(storm_bytes - 8);
    put_at(TestMemory::base + at, random_.next(), std::size_t{1} << random_.below(4));
  }
  std::size_t any_length() { return std::size_t{1} << random_.below(4); }
  void touch_bar(Function& f) {
    const std::uint64_t value = random_.chance(2) ? random_.below(64) : random_.next();
    if (random_.chance(3)) {
      board_.write(f.bar + random_.below(VirtioPci::bar_bytes - 8), value, any_length());
    } else {
      board_.write(f.bar + 2 * random_.below(common_end / 2), value, any_length());
    }
  }
  void touch_table(Function& f) {
    const std::uint64_t entry = random_.below(f.queues + 2);
    const std::uint64_t value = random_.chance(3)   ? random_.next()
                                : random_.chance(2) ? 0xfee00000 + random_.below(0x1000)
                                                    : random_.below(2);
    board_.write(f.bar + table_page + 16 * entry + 4 * random_.below(4), value, any_length());
  }
  void touch_config(Function& f) {
    const std::uint64_t value = random_.next();
    const std::uint64_t offset = random_.below(random_.chance(4) ? 4096 : 256);
    if (random_.chance(3)) {
      board_.write_port(0xcf8, 0x80000000 | f.slot << 11 | (offset & 0xfc), 4);
      board_.write_port(0xcfc + random_.below(4), value, any_length());
    } else {
      board_.write(Board::config(f, offset), value, any_length());
    }
    if (random_.chance(2)) place(board_, f);
  }
  void observe(Function& f) {
    if ((board_.read(f.bar + device_status, 1) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 &&
        board_.read(f.bar + device_status, 1) != 0xff) {
      ++counts_.broken;
      return settle(f);
    }
    board_.read(f.bar + random_.below(VirtioPci::bar_bytes - 8), any_length());
    board_.read(Board::config(f, random_.below(4096)), any_length());
    board_.read(f.bar + device_page + random_.below(256), any_length());
  }

  Board& board_;
  TestMemory& memory_;
  const std::span<Function> functions_;
  Random& random_;
  std::uint64_t data_;
  Counts counts_;
};

}  // namespace

int main(int argc, char** argv) {
  const judge::Options options(
      argc, argv, {"operations", "seed"}, {"stray", "loud"},
      "usage: hostile_driver [--operations N] [--seed N] [--stray] [--loud]\n"
      "  --stray  a write beside the guest's memory, which the judge must see\n"
      "  --loud   what the devices say of it");
  if (::access("/dev/kvm", R_OK | W_OK) != 0) {
    std::puts("skipped: no /dev/kvm");
    return 77;
  }
  if (!options.has("loud")) log().set_level(spdlog::level::off);  // of ten thousand broken rules
  const std::uint64_t operations = options.number("operations", 100'000);
  Random random(judge::seed_of(options));

  Board board;
  // What lies on both sides of the liar's memory is the other disk's, and must not change.
  TestMemory storm(storm_bytes + honest_bytes), calm(64 << 10);
  const auto disk = [] { return test::SimulatedStore::open(test::SparseImage(disk_bytes)); };
  const auto lied_to = disk();
  std::array<int, 2> wire{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, wire.data()) != 0)
    die("no socket pair");
  const UniqueFd far_end(wire[0]);
  std::atomic<std::uint64_t> printed{0};
  std::vector<Function> functions;
  functions.push_back(board.add(must(virtio::BlockDevice::create(lied_to, {.queues = 2})), storm));
  functions.push_back(board.add(
      must(virtio::NetDevice::create(std::make_unique<SocketPort>(UniqueFd(wire[1])), {})), storm));
  functions.push_back(
      board.add(must(virtio::ConsoleDevice::create([&](std::span<const iovec> pieces) {
                  for (const iovec& piece : pieces) printed += piece.iov_len;
                })),
                storm));
  functions.push_back(board.add(must(virtio::EntropyDevice::create()), storm));
  const Function honest = board.add(must(virtio::BlockDevice::create(disk(), {})), calm);
  HonestDisk witness(board, honest, calm);
  // The rest of the honest driver's memory: nobody writes to it.
  const std::uint64_t rest = calm.take(4096, 4096);
  std::memset(calm.at(rest), 0x5a, 4096);

  Liar liar(board, storm, functions, random);
  std::array<char, 2048> packet{};
  for (std::uint64_t i = 0; i < operations; ++i) {
    liar.act();
    if (i % 64 == 0) {
      (void)!::send(far_end.get(), packet.data(), 12 + random.below(1500), MSG_DONTWAIT);
      while (::recv(far_end.get(), packet.data(), packet.size(), MSG_DONTWAIT) > 0) {
      }
    }
    if (options.has("stray") && i == operations / 2) *calm.at(rest + 1000) = std::byte{1};
    if (i % check_every == 0) witness.check(i / check_every);
  }
  for (unsigned i = 0; i < 4096; ++i)
    if (*calm.at(rest + i) != std::byte{0x5a}) die("memory of another was written, at %u", i);

  const auto reached = lied_to->counters().reads + lied_to->counters().changes();
  // Each of them is as good as new after a reset.
  for (Function& f : functions) {
    place(board, f);
    board.write(f.bar + device_status, 0, 1);
  }
  storm.take(storm_bytes);
  std::memset(storm.at(TestMemory::base + storm_bytes), 0, honest_bytes);
  HonestDisk(board, functions[0], storm).check(7);
  for (std::size_t i = 1; i < functions.size(); ++i) {
    const Function& f = functions[i];
    std::vector<QueueDriver> drivers;
    std::vector<virtio::QueueLayout> layouts;
    for (std::size_t q = 0; q < f.queues; ++q) {
      drivers.emplace_back(storm, ring_entries, false);
      layouts.push_back(drivers.back().layout());
    }
    place(board, f);
    start(board, f, layouts);
    const std::uint64_t data = storm.take(2048);
    const bool fills = f.queues == 1;  // entropy; else the second queue takes what is sent
    const std::size_t queue = fills ? 0 : 1;
    const std::uint64_t before = printed;
    drivers[queue].add({{data, 64, fills}}, false);
    kick(board, f, queue);
    wait_used(drivers[queue], f.pci->device().name().c_str());
    if (f.pci->device().id() == VIRTIO_ID_CONSOLE && printed != before + 64)
      die("the console prints something else");
  }
  witness.check(8);
  const Counts& c = liar.counts();
  fmt::print(
      "{} accesses, {} of them chains ({} kicks), {} requests reached the disk, {} times broken, "
      "{} resets\n",
      c.accesses, c.chains, c.kicks, reached, c.broken, c.resets);
  if (c.broken == 0) die("no device ever said that it was broken: that was not hostile");
  if (reached == 0) die("nothing reached the disk: no device was alive");
  return 0;
}
