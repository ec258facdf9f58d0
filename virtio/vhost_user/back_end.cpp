#include "virtio/vhost_user/back_end.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/byte_order.h"
#include "base/checked.h"
#include "base/log.h"

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

bool cannot_shrink(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
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
  alignas(cmsghdr) std::array<char, CMSG_SPACE(most_descriptors * sizeof(int))> control;
  iovec place{header.data(), header.size()};
  msghdr message{.msg_iov = &place,
                 .msg_iovlen = 1,
                 .msg_control = control.data(),
                 .msg_controllen = control.size()};
  ssize_t got = 0;
  do {
    got = ::recvmsg(connection_.get(), &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno != ECONNRESET) return fail_errno(errno, "cannot read a vhost-user message");
  if (got <= 0) return std::nullopt;
  Received received;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      received.descriptors.emplace_back(fd);
    }
  }
  const auto parsed = parse_header(header);
  if (static_cast<std::size_t>(got) != header.size() || !parsed ||
      (message.msg_flags & MSG_CTRUNC) != 0) {
    return fail(ErrorKind::invalid_argument, "not a vhost-user message");
  }
  received.header = *parsed;
  received.payload.resize(parsed->payload_bytes);
  for (std::size_t done = 0; done < received.payload.size();) {
    got = ::recv(connection_.get(), received.payload.data() + done, received.payload.size() - done,
                 MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return fail(ErrorKind::io, "a vhost-user message ends in its middle");
    done += static_cast<std::size_t>(got);
  }
  return received;
}

Result<> BackEnd::send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(connection_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return fail_errno(errno, "cannot answer a vhost-user message");
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
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
      reply = answer(request, protocol_queues | protocol_answers | protocol_config);
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

std::optional<QueueStart> BackEnd::queue_start(Vring& queue) const {
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
  return QueueStart{{static_cast<std::uint16_t>(std::min<std::uint32_t>(queue.size, UINT16_MAX)),
                     *descriptors, *available, *used},
                    {queue.base, next_used},
                    queue.kick.get(),
                    queue.interrupt.get()};
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
    start.queues.push_back(queue_start(queue));
    queue.started = start.queues.back().has_value();
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
