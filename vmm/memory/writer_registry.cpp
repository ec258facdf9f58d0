#include "vmm/memory/writer_registry.h"

#include <algorithm>
#include <bit>

namespace tidepool::vmm {

namespace {

class DeviceWriter final : public Writer {
 public:
  explicit DeviceWriter(virtio::MemoryWriter& writer) : writer_(writer) {}
  const std::string& name() const override { return writer_.name(); }
  Result<> start_tracking() override {
    writer_.start_tracking();
    return {};
  }
  Result<> harvest(DirtyPages& into) override {
    writer_.take_marks(into.words());
    return {};
  }
  void stop_tracking() override { writer_.stop_tracking(); }

 private:
  virtio::MemoryWriter& writer_;
};

class UntrackedWriter final : public Writer {
 public:
  explicit UntrackedWriter(std::string name) : name_(std::move(name)) {}
  const std::string& name() const override { return name_; }
  Result<> start_tracking() override {
    return fail(ErrorKind::unsupported,
                "{} writes to the guest's memory from another process, which does not say where",
                name_);
  }
  Result<> harvest(DirtyPages&) override { return start_tracking(); }
  void stop_tracking() override {}

 private:
  const std::string name_;
};

}  // namespace

std::uint64_t DirtyPages::count() const {
  std::uint64_t count = 0;
  for (const std::uint64_t word : words_) count += static_cast<unsigned>(std::popcount(word));
  return count;
}

void DirtyPages::clear() { std::ranges::fill(words_, 0); }

void WriterRegistry::add(std::unique_ptr<Writer> writer) {
  const std::lock_guard lock(mutex_);
  writers_.push_back(std::move(writer));
}

void WriterRegistry::add(virtio::MemoryWriter& writer) {
  add(std::make_unique<DeviceWriter>(writer));
}

void WriterRegistry::add_untracked(const std::string& name) {
  add(std::make_unique<UntrackedWriter>(name));
}

std::vector<std::string> WriterRegistry::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& writer : writers_) names.push_back(writer->name());
  return names;
}

Result<> WriterRegistry::start_tracking() {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < writers_.size(); ++i) {
    auto started = writers_[i]->start_tracking();
    if (started) continue;
    while (i > 0) writers_[--i]->stop_tracking();
    return started;
  }
  return {};
}

Result<> WriterRegistry::harvest(DirtyPages& into) {
  const std::lock_guard lock(mutex_);
  for (auto& writer : writers_) {
    if (auto done = writer->harvest(into); !done) return done;
  }
  return {};
}

void WriterRegistry::stop_tracking() {
  const std::lock_guard lock(mutex_);
  for (auto& writer : writers_) writer->stop_tracking();
}

}  // namespace tidepool::vmm
