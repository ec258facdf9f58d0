#include "vmm/state/setup_state.h"

#include "base/codec.h"

namespace tidepool::vmm {

std::vector<std::byte> encode(const MachineSetup& setup) {
  std::vector<std::byte> bytes;
  Encoder out(bytes);
  for (const std::string* text :
       {&setup.name, &setup.kernel, &setup.initrd, &setup.command_line, &setup.console}) {
    out.text(*text);
  }
  out.u32(setup.cpus);
  out.u64(setup.memory);
  out.u8(setup.no_reboot ? 1 : 0);
  for (const auto* parts : {&setup.disks, &setup.nets}) {
    out.u16(static_cast<std::uint16_t>(parts->size()));
    for (const std::string& part : *parts) out.text(part);
  }
  return bytes;
}

std::optional<MachineSetup> decode_setup(std::span<const std::byte> bytes) {
  Decoder in(bytes);
  MachineSetup setup;
  for (std::string* text :
       {&setup.name, &setup.kernel, &setup.initrd, &setup.command_line, &setup.console}) {
    *text = in.text();
  }
  setup.cpus = in.u32();
  setup.memory = in.u64();
  const std::uint8_t no_reboot = in.u8();
  setup.no_reboot = no_reboot == 1;
  for (auto* parts : {&setup.disks, &setup.nets}) {
    const std::uint16_t count = in.u16();
    for (std::uint16_t i = 0; i < count && in.ok(); ++i) parts->emplace_back(in.text());
  }
  if (!in.ok() || !in.at_end() || no_reboot > 1) return std::nullopt;
  return setup;
}

}  // namespace tidepool::vmm
