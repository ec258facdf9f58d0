// A whole machine but its memory, and how it is written and read: setup, board, vCPUs,
// functions; memory follows.
#pragma once

#include <vector>

#include "base/result.h"
#include "virtio/guest_memory.h"
#include "vmm/state/board_state.h"
#include "vmm/state/function_state.h"
#include "vmm/state/setup_state.h"
#include "vmm/state/state_file.h"
#include "vmm/state/vcpu_state.h"

namespace tidepool::vmm {

struct MachineState {
  BoardState board;
  std::vector<VcpuState> vcpus;
  std::vector<FunctionState> functions;
};

Result<> write_state(StateWriter& writer, const MachineSetup& setup, const MachineState& state);
// The pages of one region that are not all zeros. Quiet memory.
Result<> write_memory(StateWriter& writer, const virtio::GuestRegion& region);

// In this order, of one reader. read_memory() fills memory that is all zeros.
Result<MachineSetup> read_setup(StateReader& reader);
Result<MachineState> read_state(StateReader& reader);
Result<> read_memory(StateReader& reader, const virtio::GuestMemory& memory);

}  // namespace tidepool::vmm
