// Fewer layers: committing the top into its parent, deleting a checkpoint.
//
// Both run while the chain serves requests, and can be given again after a crash:
// the chain is right at every moment, only longer than it will be.
//
// Blocking; one at a time (ErrorKind::busy), any thread.
#pragma once

#include <filesystem>
#include <string>

#include "blockdev/chain/block_mover.h"
#include "blockdev/chain/chain.h"
#include "blockdev/chain/file_system.h"

namespace tidepool::blockdev::chain {

// The parent of the top, a layer or a raw file, gets the disk's content of now; the
// top goes on, empty, upon it. Refused while others stand on the parent or use it.
// With `copy` not empty, the parent is copied there first.
Result<> commit_top(FileSystem& files, Chain& chain, const std::filesystem::path& top,
                    const std::filesystem::path& copy, Progress& progress);

// Takes the checkpoint `name` (or the layer with this file name) out of the chain and
// removes its file; the disk and all other checkpoints stay as they are. Refused while others
// stand on it or use it.
Result<> delete_checkpoint(FileSystem& files, Chain& chain, const std::string& name,
                           Progress& progress);

}  // namespace tidepool::blockdev::chain
