// `elasticctl dump`: all that a pool knows, disk by disk.
//
// A pool has millions of extents, so no more than one disk's map is held at a
// time. On a live pool each disk is shown as it was when its turn came.
#pragma once

#include <functional>
#include <string>

#include "fs/control/pool_control.h"

namespace tidepool::tools {

// JSON: {"info": {...}, "vms": [{..., "disks": [{..., "ranges": [...]}]}]}.
Result<> dump_pool(control::PoolControl& control, bool as_json,
                   const std::function<void(const std::string&)>& print);

}  // namespace tidepool::tools
