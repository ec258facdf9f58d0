// What `cowchain info` and `cowchain map` show.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace tidepool::tools {

// The chain at `top`, live or not, with the other layers that stand on its own ones.
Result<nlohmann::json> chain_info(const std::string& top);
std::string show_chain(const nlohmann::json& info);

// Where each range of the disk lies; nobody may serve it.
Result<nlohmann::json> chain_map(const std::string& top);
std::string show_map(const nlohmann::json& map);

}  // namespace tidepool::tools
