#include "scsi/logical_unit.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "scsi/big_endian.h"
#include "scsi/store_errors.h"

namespace tidepool::scsi {

namespace {

constexpr std::uint32_t most_transfer_bytes = 32u << 20;
constexpr std::uint32_t optimal_transfer_bytes = 1u << 20;
constexpr std::uint64_t most_write_same_bytes = std::uint64_t{1} << 30;
constexpr std::size_t most_known_ports = 4096;

Limits limits_of(const blockdev::Geometry& geometry, const LogicalUnitOptions& options) {
  Limits limits;
  limits.block_size = options.block_size;
  const std::uint32_t ratio = options.physical_block_size / options.block_size;
  limits.physical_exponent = static_cast<std::uint8_t>(std::countr_zero(ratio));
  limits.transfer = most_transfer_bytes / options.block_size;
  limits.optimal_transfer = optimal_transfer_bytes / options.block_size;
  limits.write_same = static_cast<std::uint32_t>(most_write_same_bytes / options.block_size);
  limits.unmap_granularity = ratio;
  limits.thin = geometry.can_discard && !options.read_only;
  return limits;
}

Result<> check_options(const blockdev::BlockStore& store, const LogicalUnitOptions& options) {
  const blockdev::Geometry geometry = store.geometry();
  const auto sizes_fit = [&] {
    return (options.block_size == 512 || options.block_size == 4096) &&
           options.physical_block_size >= options.block_size &&
           std::has_single_bit(options.physical_block_size) && options.physical_block_size <= 65536;
  };
  if (!sizes_fit())
    return fail(ErrorKind::invalid_argument,
                "'{}': blocks of {} in physical blocks of {} bytes cannot be; use 512 or 4096, and "
                "a multiple by a power of two up to 65536",
                store.name(), options.block_size, options.physical_block_size);
  if (geometry.logical_block > options.block_size)
    return fail(ErrorKind::invalid_argument,
                "'{}' is read and written in blocks of {} bytes: a unit with blocks of {} cannot "
                "be served from it; choose blocks of 4096",
                store.name(), geometry.logical_block, options.block_size);
  if (geometry.size < options.block_size || geometry.size % options.block_size != 0)
    return fail(ErrorKind::invalid_argument,
                "'{}' has {} bytes: a unit needs whole blocks of {} bytes, at least one",
                store.name(), geometry.size, options.block_size);
  return {};
}

}  // namespace

LogicalUnit::LogicalUnit(EventLoop& loop, LoopThread& helper, const LunDirectory& directory,
                         std::shared_ptr<blockdev::BlockStore> store,
                         std::unique_ptr<ReservationStorage> storage,
                         const LogicalUnitOptions& options)
    : loop_(loop),
      helper_(helper),
      directory_(directory),
      store_(std::move(store)),
      storage_(std::move(storage)),
      identity_(options.identity),
      limits_(limits_of(store_->geometry(), options)),
      read_only_(options.read_only || store_->geometry().read_only),
      forget_aborted_(options.forget_aborted),
      sharing_(options.sharing),
      mode_(default_mode({blocks(), limits_.block_size, read_only_, sharing_ != nullptr})) {}

LogicalUnit::~LogicalUnit() {
  if (sharing_ != nullptr) sharing_->follow(nullptr);
}

Result<std::unique_ptr<LogicalUnit>> LogicalUnit::open(EventLoop& loop, LoopThread& helper,
                                                       const LunDirectory& directory,
                                                       std::shared_ptr<blockdev::BlockStore> store,
                                                       std::unique_ptr<ReservationStorage> storage,
                                                       const LogicalUnitOptions& options) {
  if (auto fits = check_options(*store, options); !fits) return std::unexpected(fits.error());
  std::unique_ptr<LogicalUnit> unit(
      new LogicalUnit(loop, helper, directory, std::move(store), std::move(storage), options));
  auto channel = unit->store_->open_channel(loop);
  if (!channel) return std::unexpected(channel.error());
  unit->channel_ = std::move(*channel);
  if (unit->storage_ && unit->sharing_ == nullptr) {
    auto stored = unit->storage_->load();
    if (!stored) return std::unexpected(stored.error());
    unit->reservations_ = PersistentReservations(std::move(*stored));
  }
  unit->sanitize_ = std::make_unique<Sanitize>(*unit->channel_, unit->store_->geometry().size);
  if (unit->sharing_ != nullptr)
    if (auto shared = unit->begin_sharing(); !shared) return std::unexpected(shared.error());
  return unit;
}

ModeContext LogicalUnit::mode_context() const {
  return {blocks(), limits_.block_size, read_only_ || mode_.software_write_protect,
          sharing_ != nullptr};
}

void LogicalUnit::nexus_added(NexusId id, const PortId& port) {
  const bool known = known_ports_.contains(port);
  if (!known && known_ports_.size() < most_known_ports) known_ports_.insert(port);
  Nexus& nexus = nexuses_[id];
  nexus.port = port;
  add_attention(nexus, known ? asc::nexus_loss : asc::power_on);
}

void LogicalUnit::nexus_lost(NexusId id) {
  abort_tasks_of(id);
  if (legacy_holder_ == id) legacy_holder_ = 0;
  nexuses_.erase(id);
}

void LogicalUnit::submit(std::unique_ptr<Task> owned) {
  Task& task = *owned;
  task.id = ++last_id_;
  task.unit = this;
  tasks_.emplace(task.id, std::move(owned));
  if (task_set_.add(task.id, task.attribute)) begin(task);
}

void LogicalUnit::data_arrived(TaskId id) {
  const auto found = tasks_.find(id);
  if (found == tasks_.end()) return;
  Task& task = *found->second;
  task.data_complete = true;
  if (task.active) task.command->handle(*this, task);
}

void LogicalUnit::begin(Task& task) {
  if (refused(task) || refused_by_state(task)) return;
  task.active = true;
  if (task.data_complete)
    task.command->handle(*this, task);
  else
    task.owner->want_data(task);
}

bool LogicalUnit::refused(Task& task) {
  auto [command, opcode_known] = find_command(task.byte(0), service_action_of(task.cdb));
  if (command != nullptr && !has(*command)) command = nullptr;
  if (command == nullptr && opcode_known) {
    opcode_known = std::ranges::any_of(command_table(), [&](const Command& other) {
      return other.opcode == task.byte(0) && has(other);
    });
  }
  task.command = command;
  task.checked_by = followed_;
  if (task.attribute == TaskAttribute::aca)
    return fail(task, illegal_request(asc::invalid_message)), true;
  Nexus& nexus = nexus_of(task);
  const bool before_attention = command != nullptr && (command->needs & Need::before_attention);
  if (!nexus.attentions.empty() && !before_attention) {
    const std::uint16_t code = nexus.attentions.front();
    nexus.attentions.pop_front();
    return fail(task, {.key = SenseKey::unit_attention, .code = code}), true;
  }
  if (command == nullptr) {
    fail(task, opcode_known ? invalid_cdb_field(1) : illegal_request(asc::invalid_opcode));
    return true;
  }
  if (const auto byte = unknown_bits(task.cdb, command->usage_bytes()))
    return fail(task, invalid_cdb_field(*byte)), true;
  if (conflicts(task, command->access)) return finish(task, Status::reservation_conflict), true;
  return false;
}

bool LogicalUnit::refused_by_state(Task& task) {
  const std::uint8_t needs = task.command->needs;
  if (!(needs & Need::while_sanitizing)) {
    if (sanitize_->running()) {
      fail(task, {.key = SenseKey::not_ready,
                  .code = asc::sanitize_in_progress,
                  .progress = sanitize_->progress()});
      return true;
    }
    // Another SANITIZE is the other way out of the failure.
    if (sanitize_->has_failed() && task.command->opcode != 0x48) {
      fail(task, {.key = SenseKey::medium_error, .code = asc::sanitize_command_failed});
      return true;
    }
  }
  if ((needs & Need::medium) && !loaded_) {
    fail(task, {.key = SenseKey::not_ready, .code = asc::medium_not_present});
    return true;
  }
  if ((needs & Need::writable) && (read_only_ || mode_.software_write_protect)) {
    fail(task, {.key = SenseKey::data_protect,
                .code = read_only_ ? asc::write_protected : asc::software_write_protected});
    return true;
  }
  return false;
}

bool LogicalUnit::conflicts(const Task& task, Access access) const {
  if (legacy_holder_ != 0 && legacy_holder_ != task.nexus) {
    // SPC-2 lets others identify the unit, and no more.
    switch (task.byte(0)) {
      case 0x03:  // REQUEST SENSE
      case 0x12:  // INQUIRY
      case 0xa0:  // REPORT LUNS
        break;
      default:
        if (access != Access::own_checks) return true;
    }
  }
  if (access == Access::own_checks) return false;
  return reservations_.conflicts(nexuses_.at(task.nexus).port, access);
}

std::unique_ptr<Task> LogicalUnit::take(Task& task) {
  const auto found = tasks_.find(task.id);
  std::unique_ptr<Task> owned = std::move(found->second);
  tasks_.erase(found);
  task_set_.remove(task.id);
  return owned;
}

void LogicalUnit::finish(Task& task, Status status) {
  task.status = status;
  let_go(task);
  std::unique_ptr<Task> owned = take(task);
  owned->owner->finished(std::move(owned));
  settle();
}

void LogicalUnit::let_go(Task& task) {
  if (std::exchange(task.range.held, false)) ranges_.release(task.range);
  release_hold(task);
}

void LogicalUnit::fail(Task& task, const Sense& sense) {
  task.data_in_length = 0;
  task.sense = encode_sense(sense, mode_.descriptor_sense);
  finish(task, Status::check_condition);
}

bool LogicalUnit::failed(Task& task, int error) {
  if (error == 0) return false;
  log().warn("'{}': {} at {}+{} failed: errno {}", store_->name(), task.command->name,
             task.request.offset, task.request.length, error);
  fail(task, sense_of_store_error(error, task.request.op));
  return true;
}

void LogicalUnit::reply(Task& task, std::span<const std::byte> data,
                        std::uint64_t allocation_length) {
  const auto length =
      static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), allocation_length));
  task.data_in = DataBuffer::allocate(length);
  if (task.data_in.size() != length) return (void)failed(task, ENOMEM);
  if (length > 0) std::memcpy(task.data_in.data(), data.data(), length);
  task.data_in_length = static_cast<std::uint32_t>(length);
  finish(task);
}

// Continues those who were waiting: for a range, for their turn. Never within the
// bookkeeping of another.
void LogicalUnit::settle() {
  if (settling_) return;
  settling_ = true;
  for (;;) {
    if (!granted_.empty()) {
      Task& task = *granted_.back();
      granted_.pop_back();
      store_answered(task, 0);
    } else if (const auto id = task_set_.next()) {
      begin(*tasks_.at(*id));
    } else {
      break;
    }
  }
  settling_ = false;
}

void LogicalUnit::with_range(Task& task, const BlockRange& range, bool exclusive, Step next) {
  task.range.begin = range.first;
  task.range.end = range.first + range.count;
  task.range.exclusive = exclusive;
  task.range.task = &task;
  task.range.granted = [](blockdev::RangeLock& self) {
    auto& held = static_cast<HeldRange&>(self);
    held.held = true;
    held.task->unit->granted_.push_back(held.task);
  };
  if (ranges_.acquire(task.range)) {
    task.range.held = true;
    return next(*this, task, 0);
  }
  task.busy = true;
  task.next = next;
}

void LogicalUnit::issue(Task& task, Step next) {
  if (sharing_ != nullptr) {
    if (holds_off(task, next)) return;
    under_way_.insert(&task);
  }
  task.request.task = &task;
  task.request.complete = [](blockdev::IoRequest& self, int error) {
    Task& done = *static_cast<StoreRequest&>(self).task;
    done.unit->store_answered(done, error);
  };
  task.busy = true;
  task.next = next;
  channel_->submit(task.request);
}

void LogicalUnit::store_answered(Task& task, int error) {
  task.busy = false;
  ended_at_store(task);
  if (!task.aborted) return task.next(*this, task, error);
  // The late answer of a task that is on no list any more.
  const auto found = ending_.find(task.id);
  std::unique_ptr<Task> owned = std::move(found->second);
  ending_.erase(found);
  let_go(*owned);
  owned.reset();
  settle();
}

namespace {

void set_request(Task& task, blockdev::IoOp op, std::uint64_t offset, std::uint64_t length,
                 bool stable) {
  task.request.op = op;
  task.request.offset = offset;
  task.request.length = length;
  task.request.force_unit_access = stable;
  task.request.buffers = &task.buffer;
  task.request.buffer_count = 0;
}

}  // namespace

void LogicalUnit::read(Task& task, std::uint64_t offset, std::span<std::byte> data, Step next) {
  set_request(task, blockdev::IoOp::read, offset, data.size(), false);
  task.buffer = {data.data(), data.size()};
  task.request.buffer_count = 1;
  issue(task, next);
}

void LogicalUnit::write(Task& task, std::uint64_t offset, std::span<const std::byte> data,
                        bool stable, Step next) {
  set_request(task, blockdev::IoOp::write, offset, data.size(), stable);
  task.buffer = {const_cast<std::byte*>(data.data()), data.size()};
  task.request.buffer_count = 1;
  issue(task, next);
}

void LogicalUnit::discard(Task& task, std::uint64_t offset, std::uint64_t length, bool stable,
                          Step next) {
  set_request(task, blockdev::IoOp::discard, offset, length, stable);
  issue(task, next);
}

void LogicalUnit::zero(Task& task, std::uint64_t offset, std::uint64_t length, bool stable,
                       Step next) {
  set_request(task, blockdev::IoOp::zero, offset, length, stable);
  issue(task, next);
}

void LogicalUnit::flush(Task& task, Step next) {
  set_request(task, blockdev::IoOp::flush, 0, 0, false);
  issue(task, next);
}

void LogicalUnit::do_aside(Task& task, std::function<int()> work, Step next) {
  task.busy = true;
  task.next = next;
  helper_.loop().post([this, &task, work = std::move(work)] {
    const int error = work();
    loop_.post([this, &task, error] { store_answered(task, error); });
  });
}

}  // namespace tidepool::scsi
