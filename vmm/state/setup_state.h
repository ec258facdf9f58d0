// What a machine was started with, as its first record: enough to start the same one
// again, and to open the same disks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tidepool::vmm {

struct MachineSetup {
  std::string name;
  std::string kernel, initrd, command_line;
  std::uint32_t cpus = 1;
  std::uint64_t memory = 0;  // bytes
  std::string console;
  bool no_reboot = false;
  std::vector<std::string> disks, nets;  // as they were asked for, cards with their address
};

std::vector<std::byte> encode(const MachineSetup& setup);
// nullopt: makes no sense.
std::optional<MachineSetup> decode_setup(std::span<const std::byte> bytes);

}  // namespace tidepool::vmm
