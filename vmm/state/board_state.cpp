#include "vmm/state/board_state.h"

#include "vmm/state/blob.h"

namespace tidepool::vmm {

namespace {
constexpr std::uint64_t most_time = std::uint64_t{1} << 62;  // nanoseconds
}

std::vector<std::byte> encode(const BoardState& state) {
  std::vector<std::byte> bytes;
  Encoder out(bytes);
  out.u64(state.saved_at);
  out.u64(state.clock);
  for (const kvm_irqchip& chip : state.chips) put_blob(out, chip);
  put_blob(out, state.timer);

  const SerialState& serial = state.serial;
  for (const std::uint8_t byte :
       {serial.interrupt_enable, serial.line_control, serial.modem_control, serial.scratch}) {
    out.u8(byte);
  }
  out.u16(serial.divisor);
  out.u8(serial.fifo ? 1 : 0);
  out.u8(serial.empty_pending ? 1 : 0);
  out.u32(static_cast<std::uint32_t>(serial.received.size()));
  out.bytes(std::as_bytes(std::span(serial.received)));

  out.u8(state.real_time_clock.index);
  put_blob(out, state.real_time_clock.memory);
  out.u16(state.power.status);
  out.u16(state.power.enabled);
  out.u64(state.power.passed);
  out.u32(state.pci.address);
  put_blob(out, state.pci.bridge);
  return bytes;
}

std::optional<BoardState> decode_board(std::span<const std::byte> bytes) {
  Decoder in(bytes);
  BoardState state;
  state.saved_at = in.u64();
  state.clock = in.u64();
  bool taken = true;
  for (kvm_irqchip& chip : state.chips) taken = taken && take_blob(in, chip);
  for (unsigned i = 0; i < BoardState::chip_count; ++i)
    taken = taken && state.chips[i].chip_id == i;
  taken = taken && take_blob(in, state.timer);

  SerialState& serial = state.serial;
  for (std::uint8_t* byte :
       {&serial.interrupt_enable, &serial.line_control, &serial.modem_control, &serial.scratch}) {
    *byte = in.u8();
  }
  serial.divisor = in.u16();
  serial.fifo = in.u8() != 0;
  serial.empty_pending = in.u8() != 0;
  const auto received = in.bytes(in.u32());
  const auto* const first = reinterpret_cast<const std::uint8_t*>(received.data());
  serial.received.assign(first, first + received.size());

  state.real_time_clock.index = in.u8();
  taken = taken && take_blob(in, state.real_time_clock.memory) &&
          state.real_time_clock.index < state.real_time_clock.memory.size();
  state.power.status = in.u16();
  state.power.enabled = in.u16();
  state.power.passed = in.u64();
  for (const std::uint64_t time : {state.saved_at, state.clock, state.power.passed})
    taken = taken && time < most_time;
  state.pci.address = in.u32();
  taken = taken && take_blob(in, state.pci.bridge);
  if (!taken || !in.ok() || !in.at_end()) return std::nullopt;
  return state;
}

}  // namespace tidepool::vmm
