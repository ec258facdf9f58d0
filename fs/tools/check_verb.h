// `elasticctl check`: the pool's own check on an offline pool, and its answer.
//
// A mounted pool changes under the reader, so it is refused by name: unmounting
// closes it, and then everything can be checked.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace tidepool::tools {

struct CheckVerdict {
  nlohmann::json report;  // the members of pool::CheckReport, "path" and "sound"
  bool sound = false;     // nothing was wrong, or all of it was repaired without a loss
};

// Nothing is written without `repair`.
Result<CheckVerdict> check_verb(const std::string& name, bool repair);

}  // namespace tidepool::tools
