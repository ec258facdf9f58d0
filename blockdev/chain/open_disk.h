// A disk by what the user calls it: a chain's top layer, a raw file or device, an NBD
// or NFS URI, which is a raw disk.
//
// A chain is known by the header of its top layer. Any other file is opened only if the
// caller says that it is raw: who can write a disk could else make it look like a layer
// that stands on a file of the host's.
#pragma once

#include <memory>
#include <string>

#include "blockdev/block_store.h"

namespace tidepool::blockdev::chain {

struct DiskOptions {
  bool raw = false;
  bool read_only = false;
};

// Blocking; locked as the kind of disk is. Errors name the disk.
Result<std::shared_ptr<BlockStore>> open_disk(const std::string& name, const DiskOptions& options);

}  // namespace tidepool::blockdev::chain
