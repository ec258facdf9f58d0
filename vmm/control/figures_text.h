// A machine's figures as JSON, and that as Prometheus' text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "vmm/machine/machine_figures.h"

namespace tidepool::vmm {

nlohmann::json to_json(const std::string& name, const MachineFigures& figures);
// From what to_json() gave, also in another process. Every series has the label vm="NAME".
std::string prometheus_text(const nlohmann::json& figures);

}  // namespace tidepool::vmm
