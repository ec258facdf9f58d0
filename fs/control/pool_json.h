// A pool's figures, names and map as JSON: the one place that words them, for
// the daemon's control service and for elasticctl on an offline pool alike.
//
// Sizes are bytes in members that end in _bytes. Names that are not UTF-8 lose
// the offending bytes to U+FFFD when the JSON is written as text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "blockdev/stores/file_store.h"
#include "fs/pool/pool.h"

namespace tidepool::control {

// What is served, and by whom.
struct PoolContext {
  std::string pool_path;    // absolute
  std::string mount_point;  // absolute; empty when the pool is offline
};

const char* durability_name(pool::Durability durability);
Result<pool::Durability> parse_durability(std::string_view text);

Result<nlohmann::json> info_json(pool::Pool& pool, const blockdev::FileStore& store,
                                 const PoolContext& context);
// One VM without its disks, as list and stat show it.
Result<nlohmann::json> vm_json(pool::Pool& pool, const pool::DirectoryEntry& vm);
Result<nlohmann::json> list_json(pool::Pool& pool);
// The pool's figures as members, and "vms": [...] with those of each VM.
Result<nlohmann::json> stat_json(pool::Pool& pool, const blockdev::FileStore& store);
// disk: "vm1/scratch.img", or the decimal "id" that list_json shows.
Result<nlohmann::json> map_json(pool::Pool& pool, std::string_view disk);

// The text that goes over the wire and to standard output.
std::string to_text(const nlohmann::json& value, int indent = -1);

}  // namespace tidepool::control
