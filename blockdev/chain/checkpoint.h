// Checkpoints by path: the top layer is sealed and kept under another name, a new,
// empty one takes its place.
//
// Blocking; any thread. What a crash can leave is the chain before or the chain
// after, or a sealed top with its successor beside it, which finish_checkpoint()
// puts in its place.
#pragma once

#include <filesystem>
#include <string>

#include "blockdev/chain/chain.h"
#include "blockdev/chain/file_system.h"

namespace tidepool::blockdev::chain {

// Of a chain that open_chain() opened for writing at `top`, and that may serve
// requests meanwhile. `kept` must not exist. `merge`: none, or goes_down when the old
// top is about to be committed; the caller holds administer(). Returns for how long
// changes were held.
Result<Chain::Held> take_checkpoint(FileSystem& files, Chain& chain,
                                    const std::filesystem::path& top, const std::string& name,
                                    const std::filesystem::path& kept,
                                    MergeState merge = MergeState::none);

// A checkpoint that a crash cut short, if there is one; nothing may have `top` open.
Result<> finish_checkpoint(FileSystem& files, const std::filesystem::path& top);

}  // namespace tidepool::blockdev::chain
