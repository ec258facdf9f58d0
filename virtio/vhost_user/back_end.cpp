#include "virtio/vhost_user/back_end.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/byte_order.h"
#include "base/checked.h"
#include "base/log.h"
#include "virtio/vhost_user/socket_io.h"

namespace tidepool::virtio::vhost_user {

struct BackEnd::Mapping {
  MemoryRegion region;
  void* start = MAP_FAILED;
  std::uint64_t length = 0;
  ~Mapping() {
    if (start != MAP_FAILED) ::munmap(start, length);
  }
};

struct BackEnd::CallInterrupt final : Interrupt {
  int fd;
  explicit CallInterrupt(int call) : fd(call) {}
  void signal() override {
    const std::uint64_t one = 1;
    if (fd < 0) return;  // the driver polls
    [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);
  }
};

namespace {

// An eventfd, and one that makes nobody wait who writes to it: what is full is signalled.
bool take_eventfd(int fd) {
  const std::string link = fmt::format("/proc/self/fd/{}", fd);
  std::array<char, 64> target{};
  const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
  const std::string_view name(target.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  return name == "anon_inode:[eventfd]" &&
         ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) == 0;
}

// Between the notes of one queue and of the next.
std::size_t notes_stride(std::uint16_t entries) {
  constexpr std::size_t alignment = 64;
  return (InflightNotes::bytes_for(entries) + alignment - 1) / alignment * alignment;
}

// Nor lose pages for want of huge ones, as a hole in hugetlbfs may.
bool cannot_shrink(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  struct statfs where {};
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && ::fstatfs(fd, &where) == 0 &&
         where.f_type == TMPFS_MAGIC;
}

}  // namespace

BackEnd::BackEnd(Device& device, UniqueFd connection, BackEndOptions options)
    : device_(device),
      connection_(std::move(connection)),
      options_(options),
      vrings_(device.queue_sizes().size()) {}

BackEnd::~BackEnd() { stop(); }

Result<> BackEnd::serve() {
  for (;;) {
    auto message = receive();
    if (!message) return std::unexpected(message.error());
    if (!*message) return {};
    auto answered = handle(**message);
    const bool wanted =
        (*message)->header.wants_answer && (protocol_features_ & protocol_answers) != 0;
    if (!answered) {
      log().warn("{}: {}", device_.name(), answered.error().message);
      if (!wanted) return std::unexpected(answered.error());
    }
    if (!wanted || (answered && *answered)) continue;
    const auto bytes = answer((*message)->header.request, std::uint64_t{answered ? 0U : 1U});
    if (auto sent = send(bytes); !sent) return sent;
  }
}

// Header with descriptors, then the payload. Nothing: the front end is gone.
Result<std::optional<BackEnd::Received>> BackEnd::receive() {
  std::array<std::byte, header_bytes> header;
  ReceivedBytes got = receive_whole(connection_.get(), header);
  if (got.count == 0 && (got.error == 0 || got.error == ECONNRESET)) return std::nullopt;
  const auto parsed = parse_header(header);
  if (got.count < header.size() || got.error != 0 || !parsed) {
    return fail(ErrorKind::invalid_argument, "not a vhost-user message");
  }
  Received received;
  received.header = *parsed;
  received.descriptors = std::move(got.descriptors);
  received.payload.resize(parsed->payload_bytes);
  got = receive_whole(connection_.get(), received.payload);
  if (got.count < received.payload.size()) {
    return fail(ErrorKind::io, "a vhost-user message ends in its middle");
  }
  return received;
}

Result<> BackEnd::send(std::span<const std::byte> bytes, std::span<const int> descriptors) {
  const int error = send_whole(connection_.get(), bytes, descriptors);
  if (error != 0) return fail_errno(error, "cannot answer a vhost-user message");
  return {};
}

std::unexpected<Error> BackEnd::wrong(const Received& message, const char* what) const {
  return fail(ErrorKind::invalid_argument, "vhost-user message {}: {}",
              static_cast<std::uint32_t>(message.header.request), what);
}

BackEnd::Vring* BackEnd::vring(std::uint32_t index) {
  return index < vrings_.size() ? &vrings_[index] : nullptr;
}

Result<bool> BackEnd::handle(Received& message) {
  const Request request = message.header.request;
  std::vector<std::byte> reply;
  switch (request) {
    case Request::get_features:
      reply = answer(request, device_.features() | feature_protocol);
      break;
    case Request::get_protocol_features:
      reply = answer(request, protocol_queues | protocol_answers | protocol_config |
                                  (options_.replaceable ? protocol_inflight : 0));
      break;
    case Request::get_queue_count:
      reply = answer(request, vrings_.size());
      break;
    case Request::get_config: {
      const auto range = parse_config_range(message.payload);
      if (!range) return wrong(message, "not a range of the configuration");
      constexpr std::size_t range_header = 12;
      device_.read_config(range->offset, std::span(message.payload).subspan(range_header));
      reply = answer(request, message.payload);
      break;
    }
    case Request::get_inflight: {
      if (!options_.replaceable) return wrong(message, "was not offered");
      if (auto made = make_inflight(message); !made) return std::unexpected(made.error());
      return true;
    }
    case Request::get_vring_base: {
      const auto state = parse_vring_state(message.payload);
      Vring* const stopped = state ? vring(state->index) : nullptr;
      if (stopped == nullptr) return wrong(message, "no such queue");
      stop();
      stopped->kick.reset();
      std::array<std::byte, 8> payload;
      store_le32(payload.data(), state->index);
      store_le32(payload.data() + 4, std::uint32_t{stopped->base});
      reply = answer(request, payload);
      if (auto started = start(); !started) return std::unexpected(started.error());
      break;
    }
    default: {
      auto done = handle_setting(message);
      if (!done) return std::unexpected(done.error());
      return false;
    }
  }
  if (auto sent = send(reply); !sent) return std::unexpected(sent.error());
  return true;
}

Result<> BackEnd::handle_setting(Received& message) {
  switch (message.header.request) {
    case Request::set_features:
    case Request::set_protocol_features: {
      const auto value = parse_number(message.payload);
      if (!value) return wrong(message, "no number");
      if (message.header.request == Request::set_protocol_features) {
        protocol_features_ = *value;
        return {};
      }
      if ((*value & ~(device_.features() | feature_protocol)) != 0) {
        return wrong(message, "features that were not offered");
      }
      stop();
      features_ = *value;
      return start();
    }
    case Request::set_owner:
      return {};
    case Request::reset_owner:
      stop();
      vrings_ = std::vector<Vring>(vrings_.size());
      return {};
    case Request::set_memory_table:
      return map_memory(message);
    case Request::set_inflight:
      if (!options_.replaceable) return wrong(message, "was not offered");
      return take_inflight(message);
    default:
      return handle_vring(message);
  }
}

Result<> BackEnd::handle_vring(Received& message) {
  switch (message.header.request) {
    case Request::set_vring_size:
    case Request::set_vring_base:
    case Request::set_vring_enable: {
      const auto state = parse_vring_state(message.payload);
      Vring* const queue = state ? vring(state->index) : nullptr;
      if (queue == nullptr) return wrong(message, "no such queue");
      stop();
      if (message.header.request == Request::set_vring_size) queue->size = state->value;
      if (message.header.request == Request::set_vring_enable) queue->enabled = state->value != 0;
      if (message.header.request == Request::set_vring_base) {
        queue->base = static_cast<std::uint16_t>(state->value);
      }
      return start();
    }
    case Request::set_vring_addresses: {
      const auto addresses = parse_vring_addresses(message.payload);
      Vring* const queue = addresses ? vring(addresses->index) : nullptr;
      if (queue == nullptr) return wrong(message, "no such queue");
      stop();
      queue->addresses = *addresses;
      return start();
    }
    case Request::set_vring_kick:
    case Request::set_vring_call:
    case Request::set_vring_error: {
      const auto place = parse_vring_descriptor(message.payload);
      Vring* const queue = place ? vring(place->index) : nullptr;
      if (queue == nullptr) return wrong(message, "no such queue");
      if (place->none != message.descriptors.empty()) return wrong(message, "no descriptor");
      if (message.header.request == Request::set_vring_error) return {};
      if (!place->none && !take_eventfd(message.descriptors.front().get())) {
        return wrong(message, "not an eventfd");
      }
      stop();
      UniqueFd fd = place->none ? UniqueFd() : std::move(message.descriptors.front());
      if (message.header.request == Request::set_vring_call) {
        queue->call = std::move(fd);
        // What was used meanwhile may have been told to the old one, where nobody looks any more.
        if (!options_.silent_new_calls) CallInterrupt(queue->call.get()).signal();
        return start();
      }
      if (!fd) return wrong(message, "a queue without kicks is not offered");
      queue->kick = std::move(fd);
      // A front end that knows of enabling does so for each queue.
      if ((features_ & feature_protocol) == 0) queue->enabled = true;
      return start();
    }
    default:
      return wrong(message, "not known here");
  }
}

// The front end keeps it, and gives it to us, or to the one after us.
Result<> BackEnd::make_inflight(const Received& message) {
  auto wanted = parse_inflight(message.payload);
  if (!wanted || wanted->queues == 0 || wanted->queues > vrings_.size() ||
      wanted->queue_size == 0 || wanted->queue_size > most_queue_entries) {
    return wrong(message, "not so many queues or entries");
  }
  wanted->offset = 0;
  wanted->length = wanted->queues * notes_stride(wanted->queue_size);
  const UniqueFd file(::memfd_create("in-flight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ::ftruncate(file.get(), static_cast<off_t>(wanted->length)) != 0 ||
      ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno(errno, "cannot make a region for what is in flight");
  }
  const int descriptor = file.get();
  return send(answer(message.header.request, encode_inflight(*wanted)), {&descriptor, 1});
}

Result<> BackEnd::take_inflight(Received& message) {
  const auto given = parse_inflight(message.payload);
  if (!given || message.descriptors.size() != 1 || given->queues == 0 ||
      given->queues > vrings_.size() || given->queue_size == 0 ||
      given->queue_size > most_queue_entries ||
      given->length < given->queues * notes_stride(given->queue_size) || given->offset % 64 != 0) {
    return wrong(message, "not a region for these queues");
  }
  const int file = message.descriptors.front().get();
  struct stat status {};
  if (::fstat(file, &status) != 0 ||
      !range_fits(given->offset, given->length, static_cast<std::uint64_t>(status.st_size))) {
    return wrong(message, "a region is larger than its file");
  }
  if (options_.sealed_memory_only && !cannot_shrink(file)) {
    return wrong(message, "the region is not sealed against shrinking");
  }
  auto mapping = std::make_unique<Mapping>();
  mapping->length = given->offset + given->length;
  mapping->start = ::mmap(nullptr, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (mapping->start == MAP_FAILED) return fail_errno(errno, "cannot map what is in flight");
  stop();
  for (Vring& queue : vrings_) queue.notes.reset();
  inflight_memory_ = std::move(mapping);
  inflight_ = *given;
  return start();
}

Result<> BackEnd::map_memory(Received& message) {
  const auto regions = parse_memory_table(message.payload);
  if (!regions || regions->size() != message.descriptors.size() || regions->empty()) {
    return wrong(message, "not a table of memory with a descriptor for each region");
  }
  std::vector<std::unique_ptr<Mapping>> mappings;
  std::vector<GuestRegion> places;
  for (std::size_t i = 0; i < regions->size(); ++i) {
    const MemoryRegion& region = (*regions)[i];
    const int fd = message.descriptors[i].get();
    struct stat status {};
    if (::fstat(fd, &status) != 0 ||
        !range_fits(region.offset, region.length, static_cast<std::uint64_t>(status.st_size))) {
      return wrong(message, "a region is larger than its file");
    }
    if (options_.sealed_memory_only && !cannot_shrink(fd)) {
      return wrong(message,
                   "guest memory must be a memory file sealed against shrinking "
                   "(of QEMU: memory-backend-memfd, share=on, seal=on)");
    }
    auto mapping = std::make_unique<Mapping>();
    mapping->region = region;
    mapping->length = region.offset + region.length;
    mapping->start = ::mmap(nullptr, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapping->start == MAP_FAILED) return fail_errno(errno, "cannot map the guest's memory");
    places.push_back(
        {region.guest, region.length, static_cast<std::byte*>(mapping->start) + region.offset});
    mappings.push_back(std::move(mapping));
  }
  auto memory = GuestMemory::create(std::move(places));
  if (!memory) return std::unexpected(memory.error());
  stop();
  device_.connect(*memory);
  memory_ = std::move(*memory);
  mappings_ = std::move(mappings);
  return start();
}

std::optional<std::uint64_t> BackEnd::guest_address(std::uint64_t front_end) const {
  for (const auto& mapping : mappings_) {
    const MemoryRegion& region = mapping->region;
    if (front_end >= region.front_end && front_end - region.front_end < region.length) {
      return region.guest + (front_end - region.front_end);
    }
  }
  return std::nullopt;
}

Result<std::optional<QueueStart>> BackEnd::queue_start(Vring& queue) {
  if (!queue.kick || !queue.enabled || !queue.addresses || !memory_) return std::nullopt;
  const auto descriptors = guest_address(queue.addresses->descriptors),
             available = guest_address(queue.addresses->available),
             used = guest_address(queue.addresses->used);
  if (!descriptors || !available || !used) return std::nullopt;
  queue.interrupt = std::make_unique<CallInterrupt>(queue.call.get());
  // What was used is in the ring itself; what was not answered is to be served again.
  constexpr std::uint64_t index_offset = 2;
  std::uint16_t next_used = queue.base;
  if (const std::byte* const index = memory_->at(*used + index_offset, sizeof next_used)) {
    next_used = load_le16(index);
  }
  QueueStart start{{static_cast<std::uint16_t>(std::min<std::uint32_t>(queue.size, UINT16_MAX)),
                    *descriptors, *available, *used},
                   {queue.base, next_used},
                   queue.kick.get(),
                   queue.interrupt.get()};
  const auto index = static_cast<std::size_t>(&queue - vrings_.data());
  if (inflight_memory_ == nullptr || index >= inflight_.queues) return start;
  if (queue.size > inflight_.queue_size) return std::nullopt;
  const std::size_t stride = notes_stride(inflight_.queue_size);
  std::byte* const region = static_cast<std::byte*>(inflight_memory_->start) + inflight_.offset;
  queue.notes.emplace(std::span(region + index * stride, stride), inflight_.queue_size);
  auto left = queue.notes->recover(next_used);
  if (!left) return std::unexpected(left.error());
  start.left = std::move(*left);
  start.notes = &*queue.notes;
  start.position.next_available = static_cast<std::uint16_t>(next_used + start.left.size());
  return start;
}

void BackEnd::stop() {
  if (!started_) return;
  device_.reset();
  const auto positions = device_.positions();
  for (std::size_t i = 0; i < vrings_.size(); ++i) {
    if (vrings_[i].started) vrings_[i].base = positions[i].next_available;
    vrings_[i].started = false;
  }
  started_ = false;
}

Result<> BackEnd::start() {
  DeviceStart start{.features = features_ & ~feature_protocol};
  start.broken = [name = device_.name()](const std::string& why) {
    log().warn("{}: its driver broke the rules: {}", name, why);
  };
  bool any = false;
  for (Vring& queue : vrings_) {
    auto active = queue_start(queue);
    if (!active) return std::unexpected(active.error());
    queue.started = active->has_value();
    start.queues.push_back(std::move(*active));
    any = any || queue.started;
  }
  if (!any) return {};
  auto started = device_.start(std::move(start));
  started_ = started.has_value();
  if (!started) {
    for (Vring& queue : vrings_) queue.started = false;
  }
  return started;
}

}  // namespace tidepool::virtio::vhost_user
