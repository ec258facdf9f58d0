// A pool's figures in Prometheus' text format.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tidepool::control {

// From what stat_json() answers. Every series has the label pool="UUID", those
// of one VM also vm="NAME".
std::string prometheus_text(const nlohmann::json& stat);

}  // namespace tidepool::control
