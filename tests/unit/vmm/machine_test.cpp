// The machine in process, with the test guest on whatever /dev/kvm is here: who writes
// to its memory is known, and what they wrote. The judge is a copy of the memory.
#include "vmm/machine/machine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "blockdev/stores/file_store.h"
#include "tests/lib/null_store.h"

namespace tidepool::vmm {
namespace {

using namespace std::chrono_literals;

class MachineTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/kvm";
    const char* const guest = std::getenv("TESTGUEST");
    ASSERT_NE(guest, nullptr) << "TESTGUEST names the test guest";
    guest_ = guest;
  }
  void start(const std::string& test, std::vector<MachineDisk> disks = {}) {
    MachineConfig config{.boot = {guest_, {}, "test=" + test}, .memory = 32 << 20};
    config.disks = std::move(disks);
    config.output = [this](std::string_view text) {
      const std::lock_guard lock(mutex_);
      printed_ += text;
    };
    auto machine = Machine::create(std::move(config));
    ASSERT_TRUE(machine) << machine.error().message;
    machine_ = std::move(*machine);
  }
  void run() {
    runner_ = std::thread([this] { outcome_ = machine_->run(); });
  }
  bool says(const std::string& text, std::chrono::milliseconds patience) {
    for (std::int64_t i = 0; i < patience.count(); ++i) {
      {
        const std::lock_guard lock(mutex_);
        if (printed_.find(text) != printed_.npos) return true;
      }
      std::this_thread::sleep_for(1ms);
    }
    return false;
  }
  void wait_for(const std::string& text) {
    if (!says(text, 60s)) ADD_FAILURE() << "the guest does not say: " << text;
  }
  // As long as a guest takes that shares its processor with many others.
  void wait_for_change(const std::vector<std::byte>& before) {
    const auto end = std::chrono::steady_clock::now() + 120s;
    while (std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(20ms);
      if (copy() != before) return;
    }
    ADD_FAILURE() << "the guest changes nothing";
  }
  // The same saved machine with another state; without its memory, if asked.
  static void change(const std::string& from, const std::string& to,
                     const std::function<void(MachineState&)>& change, bool without_memory) {
    auto reader = StateReader::open(from);
    auto writer = StateWriter::create(to);
    ASSERT_TRUE(reader && writer);
    const auto setup = read_setup(**reader);
    auto state = read_state(**reader);
    ASSERT_TRUE(setup && state);
    change(*state);
    ASSERT_TRUE(write_state(**writer, *setup, *state));
    for (;;) {
      const auto record = (*reader)->next();
      ASSERT_TRUE(record) << record.error().message;
      if (record->kind == RecordKind::end) break;
      if (!without_memory) {
        ASSERT_TRUE((*writer)->put(RecordKind::memory, 0, record->content));
      }
    }
    ASSERT_TRUE((*writer)->finish());
  }
  void TearDown() override {
    if (machine_) machine_->stop();
    if (runner_.joinable()) runner_.join();
  }
  std::vector<std::byte> copy() {
    const std::byte* const ram = machine_->ram().at(0, machine_->ram().size());
    return {ram, ram + machine_->ram().size()};
  }

  std::string guest_;
  std::mutex mutex_;  // guards printed_
  std::string printed_;
  std::unique_ptr<Machine> machine_;
  std::thread runner_;
  Result<Outcome> outcome_;
};

// Tracking starts in the middle of the guest's work. From then on every page whose
// content changes is in the harvest.
TEST_F(MachineTest, KnowsWhatTheVcpusWrote) {
  start("dirty");
  run();
  wait_for("writing");
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(machine_->pause());
    const std::vector<std::byte> before = copy();
    ASSERT_TRUE(machine_->writers().start_tracking());
    ASSERT_TRUE(machine_->resume());
    wait_for_change(before);
    ASSERT_TRUE(machine_->pause());
    DirtyPages dirty(machine_->ram().map()->end());
    ASSERT_TRUE(machine_->writers().harvest(dirty));
    const std::vector<std::byte> after = copy();
    std::uint64_t changed = 0;
    for (std::uint64_t page = 0; page < after.size(); page += virtio::guest_page) {
      if (std::memcmp(&before[page], &after[page], virtio::guest_page) == 0) continue;
      ++changed;
      EXPECT_TRUE(dirty.contains(page)) << "page " << page / virtio::guest_page;
    }
    EXPECT_GT(changed, 0U);
    EXPECT_LT(dirty.count(), after.size() / virtio::guest_page / 2);
    // Quiet is quiet.
    std::this_thread::sleep_for(10ms);
    EXPECT_TRUE(copy() == after);
    machine_->writers().stop_tracking();
    ASSERT_TRUE(machine_->resume());
  }
}

// A page that only a disk fills. The twin: without the devices' marks the judge must see
// a page that nobody told of.
TEST_F(MachineTest, KnowsWhatTheDevicesWrote) {
  std::string path = (std::filesystem::temp_directory_path() / "machine-XXXXXX").string();
  UniqueFd fd(::mkstemp(path.data()));
  const std::string content(1 << 20, 'x');
  ASSERT_EQ(::write(fd.get(), content.data(), content.size()), 1 << 20);
  for (const bool devices_tell : {true, false}) {
    auto store = blockdev::FileStore::open(path, {.read_only = true});
    ASSERT_TRUE(store) << store.error().message;
    start("refused", {{*store, 1, "disk0"}});
    ASSERT_TRUE(machine_->writers().start_tracking());
    if (!devices_tell) {
      for (virtio::MemoryWriter* writer : machine_->device(0).writers()) writer->stop_tracking();
    }
    const std::vector<std::byte> before = copy();
    run();
    runner_.join();
    ASSERT_TRUE(outcome_) << outcome_.error().message;
    wait_for("passed");
    DirtyPages dirty(machine_->ram().map()->end());
    ASSERT_TRUE(machine_->writers().harvest(dirty));
    const std::vector<std::byte> after = copy();
    std::uint64_t missed = 0;
    for (std::uint64_t page = 0; page < after.size(); page += virtio::guest_page) {
      const bool same = std::memcmp(&before[page], &after[page], virtio::guest_page) == 0;
      if (!same && !dirty.contains(page)) ++missed;
    }
    if (devices_tell) {
      EXPECT_EQ(missed, 0U);
    } else {
      EXPECT_GT(missed, 0U);
    }
    machine_.reset();
  }
  std::filesystem::remove(path);
}

TEST_F(MachineTest, NamesItsWriters) {
  start("none", {{std::make_shared<test::NullStore>(8 << 20), 2, ""}});
  const std::vector<std::string> wanted{"vCPUs", "disk null 0", "disk null 1", "entropy",
                                        "balloon"};
  EXPECT_EQ(machine_->writers().names(), wanted);

  class Untracked : public Writer {
   public:
    const std::string& name() const override { return name_; }
    Result<> start_tracking() override {
      return fail(ErrorKind::unsupported, "{} writes untracked", name_);
    }
    Result<> harvest(DirtyPages&) override { return {}; }
    void stop_tracking() override {}

   private:
    const std::string name_ = "a device with DMA";
  };
  machine_->writers().add(std::make_unique<Untracked>());
  auto refused = machine_->writers().start_tracking();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::unsupported);
  EXPECT_NE(refused.error().message.find("a device with DMA"), std::string::npos);
}

// Saved and restored in one process. The twins: with what the state says of a queue or of
// the processor left out, the guest must notice.
TEST_F(MachineTest, GoesOnWhereItWasSaved) {
  std::string path = (std::filesystem::temp_directory_path() / "machine-XXXXXX").string();
  const UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 8 << 20), 0);
  const std::string saved = path + ".saved", changed = path + ".changed";
  enum class Loss { none, queue, registers, memory };
  for (const Loss loss : {Loss::none, Loss::queue, Loss::registers, Loss::memory}) {
    auto store = blockdev::FileStore::open(path, {});
    ASSERT_TRUE(store) << store.error().message;
    printed_.clear();
    start("steps", {{*store, 1, "disk0"}});
    run();
    wait_for("step 3 ");
    const auto done = machine_->save({.name = "one", .cpus = 1}, saved);
    ASSERT_TRUE(done) << done.error().message;
    runner_.join();
    ASSERT_TRUE(outcome_ && *outcome_ == Outcome::saved);
    const MachineConfig& before = machine_->config();
    MachineConfig config{.boot = before.boot,
                         .cpus = before.cpus,
                         .memory = before.memory,
                         .disks = before.disks,
                         .output = before.output};
    machine_.reset();
    printed_.clear();

    change(
        saved, changed,
        [&](MachineState& state) {
          if (loss == Loss::queue) state.functions[0].queues[0].next_used -= 1;
          if (loss == Loss::registers) state.vcpus[0].registers = {};
        },
        loss == Loss::memory);
    auto reader = StateReader::open(changed);
    ASSERT_TRUE(reader) << reader.error().message;
    ASSERT_TRUE(read_setup(**reader));
    auto restored = Machine::restore(std::move(config), **reader);
    ASSERT_TRUE(restored) << restored.error().message;
    machine_ = std::move(*restored);
    run();
    if (loss == Loss::none) {
      wait_for("\nstep ");
      EXPECT_TRUE(machine_->pause());
    } else {
      EXPECT_FALSE(says("\nstep ", 2s)) << static_cast<int>(loss);
    }
    machine_->stop();
    runner_.join();
    machine_.reset();
  }
  for (const std::string& file : {path, saved, changed}) std::filesystem::remove(file);
}

TEST_F(MachineTest, StopsAndGoesOnAThousandTimes) {
  start("dirty");
  run();
  wait_for("writing");
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(machine_->pause());
    ASSERT_TRUE(machine_->resume());
  }
  wait_for_change(copy());
}

}  // namespace
}  // namespace tidepool::vmm
