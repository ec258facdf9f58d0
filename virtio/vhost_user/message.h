// Messages of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst), as both ends
// need them. Pure: bytes in, checked values out, and back.
//
//   front end                                  back end
//     GET_FEATURES, GET_PROTOCOL_FEATURES  ->    what the device offers
//     SET_FEATURES, SET_PROTOCOL_FEATURES  ->
//     GET_CONFIG, GET_QUEUE_NUM            ->    what the device is
//     SET_MEM_TABLE (with descriptors)     ->    maps the guest's memory
//     SET_VRING_NUM, _ADDR, _BASE, _CALL   ->
//     SET_VRING_KICK, SET_VRING_ENABLE     ->    serves the queue
//     GET_VRING_BASE                       ->    stops it, says how far it is
//     GET_INFLIGHT_FD, SET_INFLIGHT_FD     ->    notes of what is under way, if offered
//     SET_OWNER, RESET_OWNER, SET_VRING_ERR      taken, without effect
//
// Version 1. What is not listed here is refused, by an answer where the front end asks
// for one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tidepool::virtio::vhost_user {

enum class Request : std::uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_memory_table = 5,
  set_vring_size = 8,
  set_vring_addresses = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_error = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_count = 17,
  set_vring_enable = 18,
  get_config = 24,
  get_inflight = 31,
  set_inflight = 32,
};

inline constexpr std::uint64_t feature_protocol = std::uint64_t{1} << 30;  // of the device's
inline constexpr std::uint64_t protocol_queues = 1U << 0, protocol_answers = 1U << 3,
                               protocol_config = 1U << 9, protocol_inflight = 1U << 12;

inline constexpr std::size_t header_bytes = 12;
inline constexpr std::size_t most_payload = 4096;
inline constexpr std::size_t most_descriptors = 8;  // that one message carries
inline constexpr std::size_t most_regions = 8;
inline constexpr std::uint32_t most_config = 256;

struct Header {
  Request request{};
  bool wants_answer = false;
  std::uint32_t payload_bytes = 0;
};
// nullopt: another version, a payload that is too long, or the other of the two.
std::optional<Header> parse_header(std::span<const std::byte, header_bytes> bytes);
std::optional<Header> parse_answer_header(std::span<const std::byte, header_bytes> bytes);
// Header and payload.
std::vector<std::byte> encode_request(Request request, std::span<const std::byte> payload,
                                      bool wants_answer);
// Header and payload of an answer.
std::vector<std::byte> answer(Request request, std::span<const std::byte> payload);
std::vector<std::byte> answer(Request request, std::uint64_t value);

struct VringState {
  std::uint32_t index = 0, value = 0;
};
struct VringAddresses {
  std::uint32_t index = 0;
  std::uint64_t descriptors = 0, used = 0, available = 0;  // in the front end's address space
};
struct VringDescriptor {  // of SET_VRING_KICK and _CALL
  std::uint32_t index = 0;
  bool none = false;  // no file descriptor comes with it
};
struct MemoryRegion {
  std::uint64_t guest = 0, length = 0;
  std::uint64_t front_end = 0;  // where the front end has it
  std::uint64_t offset = 0;     // in the descriptor that comes with it
};
// A region shared with the back end, in which it notes what it has taken and not yet
// given back: a new back end goes on from there.
struct Inflight {
  std::uint64_t length = 0, offset = 0;  // of the mapping, in the descriptor that comes with it
  std::uint16_t queues = 0, queue_size = 0;
};
struct ConfigRange {
  std::uint32_t offset = 0, length = 0;
};

// Each wants a payload of exactly its size.
std::optional<std::uint64_t> parse_number(std::span<const std::byte> payload);
std::optional<VringState> parse_vring_state(std::span<const std::byte> payload);
std::optional<VringAddresses> parse_vring_addresses(std::span<const std::byte> payload);
std::optional<VringDescriptor> parse_vring_descriptor(std::span<const std::byte> payload);
std::optional<std::vector<MemoryRegion>> parse_memory_table(std::span<const std::byte> payload);
std::optional<ConfigRange> parse_config_range(std::span<const std::byte> payload);
std::optional<Inflight> parse_inflight(std::span<const std::byte> payload);

std::vector<std::byte> encode_vring_addresses(const VringAddresses& addresses);
std::vector<std::byte> encode_memory_table(std::span<const MemoryRegion> regions);
// A range and room for what is in it.
std::vector<std::byte> encode_config_range(const ConfigRange& range);
std::vector<std::byte> encode_inflight(const Inflight& inflight);

}  // namespace tidepool::virtio::vhost_user
