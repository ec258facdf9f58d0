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
  out.u16(static_cast<std::uint16_t>(setup.disks.size()));
  for (const std::string& disk : setup.disks) out.text(disk);
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
  const std::uint16_t disks = in.u16();
  for (std::uint16_t i = 0; i < disks && in.ok(); ++i) setup.disks.emplace_back(in.text());
  if (!in.ok() || !in.at_end() || no_reboot > 1) return std::nullopt;
  return setup;
}

}  // namespace tidepool::vmm
