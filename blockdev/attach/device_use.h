// Who uses a block device, and having it to oneself.
//
// Limits: processes are found by the names of their open files, so a node of the
// device that has another name is missed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::blockdev::attach {

// Each as a sentence about /dev/nbdN, its partitions included: "is mounted on /mnt".
std::vector<std::string> users_of(std::uint32_t index);

// An open descriptor that keeps mounts and other exclusive users away. busy, naming
// the users, if there are any; who lets go within two seconds (udev looks at each
// new device) is waited for.
Result<UniqueFd> hold_device(std::uint32_t index);

// Everything written to the held device is on its server, and stable there.
Result<> flush_device(std::uint32_t index, const UniqueFd& held);

}  // namespace tidepool::blockdev::attach
