// What machines are and do, as tables for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tidepool::tools {

std::string machines_table(const std::vector<nlohmann::json>& machines);  // of their infos
std::string figures_tables(const nlohmann::json& figures);                // of one machine

}  // namespace tidepool::tools
