#include "virtio/vhost_user/message.h"

#include "base/byte_order.h"
#include "base/checked.h"
#include "base/codec.h"

namespace tidepool::virtio::vhost_user {

namespace {

constexpr std::uint32_t version_mask = 3, version = 1, is_answer = 1U << 2, needs_answer = 1U << 3;

// The value if all of the payload was read, no more and no less.
template <class T>
std::optional<T> whole(const Decoder& decoder, T value) {
  if (!decoder.ok() || !decoder.at_end()) return std::nullopt;
  return value;
}

// kind: is_answer, or 0.
std::optional<Header> parse_header(std::span<const std::byte, header_bytes> bytes,
                                   std::uint32_t kind) {
  const std::uint32_t flags = load_le32(bytes.data() + 4), size = load_le32(bytes.data() + 8);
  if ((flags & (version_mask | is_answer)) != (version | kind) || size > most_payload) {
    return std::nullopt;
  }
  return Header{static_cast<Request>(load_le32(bytes.data())), (flags & needs_answer) != 0, size};
}

std::vector<std::byte> encode_message(Request request, std::uint32_t flags,
                                      std::span<const std::byte> payload) {
  std::vector<std::byte> bytes;
  Encoder encoder(bytes);
  encoder.u32(static_cast<std::uint32_t>(request));
  encoder.u32(version | flags);
  encoder.u32(static_cast<std::uint32_t>(payload.size()));
  encoder.bytes(payload);
  return bytes;
}

}  // namespace

std::optional<Header> parse_header(std::span<const std::byte, header_bytes> bytes) {
  return parse_header(bytes, 0);
}

std::optional<Header> parse_answer_header(std::span<const std::byte, header_bytes> bytes) {
  return parse_header(bytes, is_answer);
}

std::vector<std::byte> encode_request(Request request, std::span<const std::byte> payload,
                                      bool wants_answer) {
  return encode_message(request, wants_answer ? needs_answer : 0, payload);
}

std::vector<std::byte> answer(Request request, std::span<const std::byte> payload) {
  return encode_message(request, is_answer, payload);
}

std::vector<std::byte> answer(Request request, std::uint64_t value) {
  std::array<std::byte, sizeof value> payload;
  store_le64(payload.data(), value);
  return answer(request, payload);
}

std::optional<std::uint64_t> parse_number(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  const std::uint64_t value = decoder.u64();
  return whole(decoder, value);
}

std::optional<VringState> parse_vring_state(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  VringState state;
  state.index = decoder.u32();
  state.value = decoder.u32();
  return whole(decoder, state);
}

std::optional<VringAddresses> parse_vring_addresses(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  VringAddresses addresses;
  addresses.index = decoder.u32();
  decoder.u32();  // flags: whether to log the used ring, which is not offered
  addresses.descriptors = decoder.u64();
  addresses.used = decoder.u64();
  addresses.available = decoder.u64();
  decoder.u64();  // where to log
  return whole(decoder, addresses);
}

std::optional<VringDescriptor> parse_vring_descriptor(std::span<const std::byte> payload) {
  constexpr std::uint64_t index_mask = 0xff, no_descriptor = 0x100;
  const auto value = parse_number(payload);
  if (!value) return std::nullopt;
  return VringDescriptor{static_cast<std::uint32_t>(*value & index_mask),
                         (*value & no_descriptor) != 0};
}

std::optional<std::vector<MemoryRegion>> parse_memory_table(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  const std::uint32_t count = decoder.u32();
  decoder.u32();
  if (count > most_regions) return std::nullopt;
  std::vector<MemoryRegion> regions(count);
  for (MemoryRegion& region : regions) {
    region.guest = decoder.u64();
    region.length = decoder.u64();
    region.front_end = decoder.u64();
    region.offset = decoder.u64();
    const auto end = checked_add(region.offset, region.length);
    if (!end || region.length == 0 || !checked_add(region.front_end, region.length)) {
      return std::nullopt;
    }
  }
  return whole(decoder, std::move(regions));
}

std::optional<ConfigRange> parse_config_range(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  ConfigRange range;
  range.offset = decoder.u32();
  range.length = decoder.u32();
  decoder.u32();  // flags
  decoder.bytes(range.length);
  if (range.length > most_config || range.offset > most_config) return std::nullopt;
  return whole(decoder, range);
}

std::optional<Inflight> parse_inflight(std::span<const std::byte> payload) {
  Decoder decoder(payload);
  Inflight inflight;
  inflight.length = decoder.u64();
  inflight.offset = decoder.u64();
  inflight.queues = decoder.u16();
  inflight.queue_size = decoder.u16();
  // QEMU and those that follow it pad the structure to a multiple of 8 bytes.
  if (!decoder.at_end()) decoder.u32();
  if (!checked_add(inflight.offset, inflight.length)) return std::nullopt;
  return whole(decoder, inflight);
}

std::vector<std::byte> encode_vring_addresses(const VringAddresses& addresses) {
  std::vector<std::byte> bytes;
  Encoder encoder(bytes);
  encoder.u32(addresses.index);
  encoder.u32(0);
  encoder.u64(addresses.descriptors);
  encoder.u64(addresses.used);
  encoder.u64(addresses.available);
  encoder.u64(0);
  return bytes;
}

std::vector<std::byte> encode_memory_table(std::span<const MemoryRegion> regions) {
  std::vector<std::byte> bytes;
  Encoder encoder(bytes);
  encoder.u32(static_cast<std::uint32_t>(regions.size()));
  encoder.u32(0);
  for (const MemoryRegion& region : regions) {
    encoder.u64(region.guest);
    encoder.u64(region.length);
    encoder.u64(region.front_end);
    encoder.u64(region.offset);
  }
  return bytes;
}

std::vector<std::byte> encode_config_range(const ConfigRange& range) {
  std::vector<std::byte> bytes;
  Encoder encoder(bytes);
  encoder.u32(range.offset);
  encoder.u32(range.length);
  encoder.u32(0);
  bytes.resize(bytes.size() + range.length);
  return bytes;
}

std::vector<std::byte> encode_inflight(const Inflight& inflight) {
  std::vector<std::byte> bytes;
  Encoder encoder(bytes);
  encoder.u64(inflight.length);
  encoder.u64(inflight.offset);
  encoder.u16(inflight.queues);
  encoder.u16(inflight.queue_size);
  encoder.u32(0);
  return bytes;
}

}  // namespace tidepool::virtio::vhost_user
