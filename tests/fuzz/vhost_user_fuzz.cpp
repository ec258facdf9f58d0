// A front end or a back end that lies: headers and payloads of vhost-user messages.
#include <algorithm>
#include <array>

#include "base/codec.h"
#include "tests/fuzz/target.h"
#include "virtio/vhost_user/message.h"

namespace tidepool::test {

using namespace virtio::vhost_user;

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  const auto message = [&](std::uint32_t request, auto fill) {
    Input payload, bytes;
    Encoder content(payload);
    fill(content);
    Encoder encoder(bytes);
    encoder.u32(request);
    encoder.u32(9);  // version 1, an answer is wanted
    encoder.u32(static_cast<std::uint32_t>(payload.size()));
    encoder.bytes(payload);
    inputs.push_back(bytes);
  };
  message(2, [](Encoder& e) { e.u64(1ULL << 30); });
  message(8, [](Encoder& e) { e.u32(0), e.u32(256); });
  message(9, [](Encoder& e) { e.u32(0), e.u32(0), e.u64(1), e.u64(2), e.u64(3), e.u64(4); });
  message(12, [](Encoder& e) { e.u64(0x101); });
  message(5, [](Encoder& e) {
    e.u32(2), e.u32(0);
    for (int i = 0; i < 2; ++i) e.u64(0), e.u64(4096), e.u64(1 << 20), e.u64(0);
  });
  message(32, [](Encoder& e) { e.u64(4096), e.u64(0), e.u16(2), e.u16(256), e.u32(0); });
  message(24, [](Encoder& e) { e.u32(0), e.u32(8), e.u32(0), e.u64(0); });
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  if (input.size() < header_bytes) return;
  const auto header = parse_header(input.first<header_bytes>());
  const auto payload = input.subspan(header_bytes);
  if (header) require(header->payload_bytes <= most_payload, "a payload is bounded");
  const auto answered = parse_answer_header(input.first<header_bytes>());
  if (answered) require(answered->payload_bytes <= most_payload, "an answer is bounded");
  require(!header || !answered, "a message is one or the other");
  parse_number(payload);
  if (const auto inflight = parse_inflight(payload)) {
    require(inflight->offset + inflight->length >= inflight->offset, "a region does not wrap");
    const auto again = parse_inflight(encode_inflight(*inflight));
    require(again && again->queues == inflight->queues, "a region survives");
  }
  parse_vring_state(payload);
  parse_vring_addresses(payload);
  if (const auto place = parse_vring_descriptor(payload)) require(place->index < 256, "an index");
  if (const auto regions = parse_memory_table(payload)) {
    require(regions->size() <= most_regions, "regions are bounded");
    for (const MemoryRegion& region : *regions) {
      require(region.offset + region.length > region.offset, "a region does not wrap");
      require(region.front_end + region.length > region.front_end, "nor in the front end");
    }
  }
  if (const auto range = parse_config_range(payload)) {
    require(payload.size() == 12 + range->length, "a range has its payload");
    const auto back = answer(Request::get_config, payload);
    require(std::ranges::equal(std::span(back).subspan(header_bytes), payload), "an answer");
  }
}

}  // namespace tidepool::test
