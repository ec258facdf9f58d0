// A configuration file of leanvm: what is accepted can be written again and means the same.
#include <nlohmann/json.hpp>

#include "tests/fuzz/target.h"
#include "vmm/tools/run_config.h"

namespace tidepool::test {

using nlohmann::json;

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (std::string_view text :
       {R"({"kernel": "/vmlinuz", "initrd": "/i", "cmdline": "quiet", "cpus": 2, "memory": "2G",)"
        R"( "disk": ["a,raw", "b"], "net": ["tap=t0"], "console": "virtio", "name": "x",)"
        R"( "no-reboot": true})",
        R"({"memory": 1073741824})", R"({"kernel": "a", "kernel": "b"})", R"({"disk": ["\u0000"]})",
        R"([])", R"({"cpus": 1e999})", R"({"cpus": -1})"}) {
    const auto bytes = std::as_bytes(std::span(text));
    inputs.emplace_back(bytes.begin(), bytes.end());
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  const auto config =
      tools::parse_run_config({reinterpret_cast<const char*>(input.data()), input.size()});
  if (!config) return require(!config.error().message.empty(), "an error says something");
  json again = json::object();
  const auto put = [&](const char* key, const auto& value) {
    if (value) again[key] = *value;
  };
  put("kernel", config->kernel);
  put("initrd", config->initrd);
  put("cmdline", config->command_line);
  put("cpus", config->cpus);
  put("memory", config->memory);
  put("disk", config->disks);
  put("net", config->nets);
  put("console", config->console);
  put("name", config->name);
  put("no-reboot", config->no_reboot);
  const auto same = tools::parse_run_config(again.dump());
  require(same && *same == *config, "what was read can be written");
}

}  // namespace tidepool::test
