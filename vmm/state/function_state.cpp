#include "vmm/state/function_state.h"

#include "base/codec.h"
#include "vmm/state/blob.h"

namespace tidepool::vmm {

namespace {

void put(Encoder& out, const QueueState& queue) {
  out.u16(queue.size);
  out.u16(queue.vector);
  out.u8(queue.enabled ? 1 : 0);
  out.u64(queue.descriptors);
  out.u64(queue.available);
  out.u64(queue.used);
  out.u16(queue.next_available);
  out.u16(queue.next_used);
}

QueueState take_queue(Decoder& in) {
  QueueState queue;
  queue.size = in.u16();
  queue.vector = in.u16();
  queue.enabled = in.u8() != 0;
  queue.descriptors = in.u64();
  queue.available = in.u64();
  queue.used = in.u64();
  queue.next_available = in.u16();
  queue.next_used = in.u16();
  return queue;
}

void put(Encoder& out, const VectorState& vector) {
  out.u64(vector.address);
  out.u32(vector.data);
  out.u8(vector.masked ? 1 : 0);
  out.u8(vector.pending ? 1 : 0);
}

VectorState take_vector(Decoder& in) {
  VectorState vector;
  vector.address = in.u64();
  vector.data = in.u32();
  vector.masked = in.u8() != 0;
  vector.pending = in.u8() != 0;
  return vector;
}

}  // namespace

std::vector<std::byte> encode(const FunctionState& state) {
  std::vector<std::byte> bytes;
  Encoder out(bytes);
  out.u32(state.device);
  put_blob(out, state.device_config);
  put_blob(out, state.config);
  out.u8(state.status);
  out.u8(state.started ? 1 : 0);
  out.u8(state.broken ? 1 : 0);
  out.u32(state.device_feature_select);
  out.u32(state.driver_feature_select);
  out.u64(state.driver_features);
  out.u16(state.queue_select);
  out.u16(state.config_vector);
  out.u16(static_cast<std::uint16_t>(state.queues.size()));
  for (const QueueState& queue : state.queues) put(out, queue);
  out.u16(static_cast<std::uint16_t>(state.vectors.size()));
  for (const VectorState& vector : state.vectors) put(out, vector);
  out.u32(static_cast<std::uint32_t>(state.inner.size()));
  out.bytes(state.inner);
  return bytes;
}

std::optional<FunctionState> decode_function(std::span<const std::byte> bytes) {
  Decoder in(bytes);
  FunctionState state;
  state.device = in.u32();
  const bool taken = take_blob(in, state.device_config) && take_blob(in, state.config);
  state.status = in.u8();
  state.started = in.u8() != 0;
  state.broken = in.u8() != 0;
  state.device_feature_select = in.u32();
  state.driver_feature_select = in.u32();
  state.driver_features = in.u64();
  state.queue_select = in.u16();
  state.config_vector = in.u16();
  const std::uint16_t queues = in.u16();
  for (std::uint16_t i = 0; i < queues && in.ok(); ++i) state.queues.push_back(take_queue(in));
  const std::uint16_t vectors = in.u16();
  for (std::uint16_t i = 0; i < vectors && in.ok(); ++i) state.vectors.push_back(take_vector(in));
  const auto inner = in.bytes(in.u32());
  state.inner.assign(inner.begin(), inner.end());
  if (!taken || !in.ok() || !in.at_end()) return std::nullopt;
  return state;
}

}  // namespace tidepool::vmm
