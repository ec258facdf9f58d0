// A configuration file of `leanvm run`: one JSON object, a key for each option.
//
// A key is its option's name without the dashes; "disk", "scsi" and "net" are lists. What is not
// said is absent here. Unknown keys, keys that come twice and values of another kind are
// errors that name the key: a misspelt one must not be a machine without its disk.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::tools {

struct RunConfig {
  std::optional<std::string> kernel, initrd, command_line, memory, console, name;
  std::optional<unsigned> cpus;
  std::optional<bool> no_reboot;
  std::optional<std::vector<std::string>> disks, scsi_disks, nets;

  bool operator==(const RunConfig&) const = default;
};

// Pure.
Result<RunConfig> parse_run_config(std::string_view text);
// The file's, with its name in each error.
Result<RunConfig> read_run_config(const std::filesystem::path& file);

}  // namespace tidepool::tools
