// Makes a pool: the file or device, its size, and the empty pool in it.
//
// What is in the way is refused: an existing pool, a file that is not empty, a
// device that does not read as zeros at its start. `force` overrules that.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/result.h"

namespace tidepool::tools {

struct CreateRequest {
  std::string path;
  std::uint64_t size = 0;                    // bytes; 0: a device's own size
  std::optional<std::uint64_t> chunk_bytes;  // else the pool's default
  bool force = false;
};

// Answers with the new pool's info. `note` is filled when there is something the
// user should know although it worked.
Result<nlohmann::json> create_pool(const CreateRequest& request, std::string& note);

}  // namespace tidepool::tools
