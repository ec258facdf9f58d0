// A pool's JSON as tables for people. Pure: JSON in, text out.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tidepool::tools {

std::string show_info(const nlohmann::json& info);
std::string show_list(const nlohmann::json& list);
std::string show_stat(const nlohmann::json& stat);
std::string show_map(const nlohmann::json& map);
std::string show_vm(const nlohmann::json& vm);
std::string show_check(const nlohmann::json& report);

}  // namespace tidepool::tools
