#include "vmm/state/vcpu_state.h"

#include "vmm/state/blob.h"

namespace tidepool::vmm {

std::vector<std::byte> encode(const VcpuState& state) {
  std::vector<std::byte> bytes;
  Encoder out(bytes);
  out.u16(static_cast<std::uint16_t>(state.cpuid.size()));
  for (const kvm_cpuid_entry2& entry : state.cpuid) {
    for (const std::uint32_t word :
         {entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx}) {
      out.u32(word);
    }
  }
  put_blob(out, state.run_state);
  put_blob(out, state.registers);
  put_blob(out, state.system_registers);
  out.u32(static_cast<std::uint32_t>(state.extended.size()));
  out.bytes(state.extended);
  put_blob(out, state.extended_control);
  put_blob(out, state.debug);
  put_blob(out, state.local_apic);
  out.u16(static_cast<std::uint16_t>(state.msrs.size()));
  for (const VcpuState::Msr& msr : state.msrs) {
    out.u32(msr.index);
    out.u64(msr.value);
  }
  put_blob(out, state.events);
  out.u32(state.counter_khz);
  return bytes;
}

std::optional<VcpuState> decode_vcpu(std::span<const std::byte> bytes) {
  Decoder in(bytes);
  VcpuState state;
  const std::uint16_t leaves = in.u16();
  for (std::uint16_t i = 0; i < leaves && in.ok(); ++i) {
    kvm_cpuid_entry2& entry = state.cpuid.emplace_back();
    for (std::uint32_t* word : {&entry.function, &entry.index, &entry.flags, &entry.eax, &entry.ebx,
                                &entry.ecx, &entry.edx}) {
      *word = in.u32();
    }
  }
  bool taken = take_blob(in, state.run_state) && take_blob(in, state.registers) &&
               take_blob(in, state.system_registers);
  const auto extended = in.bytes(in.u32());
  state.extended.assign(extended.begin(), extended.end());
  taken = taken && state.extended.size() >= VcpuState::least_extended &&
          state.extended.size() <= VcpuState::most_extended &&
          take_blob(in, state.extended_control) && take_blob(in, state.debug) &&
          take_blob(in, state.local_apic);
  const std::uint16_t msrs = in.u16();
  for (std::uint16_t i = 0; i < msrs && in.ok(); ++i) {
    const std::uint32_t index = in.u32();
    state.msrs.push_back({index, in.u64()});
  }
  const bool events = take_blob(in, state.events);
  state.counter_khz = in.u32();
  if (!taken || !events || !in.ok() || !in.at_end()) return std::nullopt;
  return state;
}

}  // namespace tidepool::vmm
