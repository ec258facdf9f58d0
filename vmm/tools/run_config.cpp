#include "vmm/tools/run_config.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/size_text.h"

namespace tidepool::tools {

namespace {

using nlohmann::json;

constexpr std::size_t most_bytes = 1 << 20;  // of a file

std::unexpected<Error> wrong(const std::string& key, const char* meant) {
  return fail(ErrorKind::invalid_argument, "\"{}\": {} is meant", key, meant);
}

Result<> take(const std::string& key, const json& value, std::optional<std::string>& into) {
  if (!value.is_string()) return wrong(key, "a string");
  // It would end there for the kernel.
  if (value.get_ref<const std::string&>().find('\0') != std::string::npos)
    return wrong(key, "a string without zero bytes");
  into = value.get<std::string>();
  return {};
}

Result<> take(const std::string& key, const json& value, std::optional<bool>& into) {
  if (!value.is_boolean()) return wrong(key, "true or false");
  into = value.get<bool>();
  return {};
}

Result<> take(const std::string& key, const json& value, std::optional<unsigned>& into) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() > std::numeric_limits<unsigned>::max()) {
    return wrong(key, "a number");
  }
  into = value.get<unsigned>();
  return {};
}

Result<> take(const std::string& key, const json& value,
              std::optional<std::vector<std::string>>& into) {
  if (!value.is_array()) return wrong(key, "a list of strings");
  into.emplace();
  for (const json& entry : value) {
    std::optional<std::string> text;
    if (auto taken = take(key, entry, text); !taken) return wrong(key, "a list of strings");
    into->push_back(std::move(*text));
  }
  return {};
}

// "2G", or a number of bytes.
Result<> take_size(const std::string& key, const json& value, std::optional<std::string>& into) {
  if (value.is_number_unsigned()) {
    into = std::to_string(value.get<std::uint64_t>());
    return {};
  }
  if (!value.is_string()) return wrong(key, "a size such as \"2G\", or a number of bytes");
  return take(key, value, into);
}

Result<> take_console(const std::string& key, const json& value, std::optional<std::string>& into) {
  if (value != "serial" && value != "virtio") return wrong(key, "\"serial\" or \"virtio\"");
  return take(key, value, into);
}

Result<> take_key(RunConfig& config, const std::string& key, const json& value) {
  if (key == "kernel") return take(key, value, config.kernel);
  if (key == "initrd") return take(key, value, config.initrd);
  if (key == "cmdline") return take(key, value, config.command_line);
  if (key == "cpus") return take(key, value, config.cpus);
  if (key == "memory") return take_size(key, value, config.memory);
  if (key == "disk") return take(key, value, config.disks);
  if (key == "scsi") return take(key, value, config.scsi_disks);
  if (key == "net") return take(key, value, config.nets);
  if (key == "console") return take_console(key, value, config.console);
  if (key == "name") return take(key, value, config.name);
  if (key == "no-reboot") return take(key, value, config.no_reboot);
  return fail(ErrorKind::invalid_argument,
              "\"{}\" is no key: they are the options of 'leanvm run' without dashes", key);
}

// JSON keeps the last of two; here neither is right.
Result<json> parse(std::string_view text) {
  std::set<std::string> seen;
  std::optional<std::string> twice;
  const auto look = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto key = parsed.get<std::string>();
      if (!seen.insert(key).second) twice = key;
    }
    return true;
  };
  try {
    json object = json::parse(text, look);
    if (twice) return fail(ErrorKind::invalid_argument, "\"{}\" comes twice", *twice);
    return object;
  } catch (const json::parse_error& error) {
    return fail(ErrorKind::invalid_argument, "this is not JSON: at byte {}", error.byte);
  } catch (const json::exception&) {
    return fail(ErrorKind::invalid_argument, "a number in it is too large");
  }
}

}  // namespace

Result<RunConfig> parse_run_config(std::string_view text) {
  if (text.size() > most_bytes) {
    return fail(ErrorKind::invalid_argument, "more than {}", format_size(most_bytes));
  }
  const auto object = parse(text);
  if (!object) return std::unexpected(object.error());
  if (!object->is_object()) {
    return fail(ErrorKind::invalid_argument, "a JSON object is meant: {{\"kernel\": ...}}");
  }
  RunConfig config;
  for (const auto& [key, value] : object->items()) {
    if (auto taken = take_key(config, key, value); !taken) return std::unexpected(taken.error());
  }
  return config;
}

Result<RunConfig> read_run_config(const std::filesystem::path& file) {
  std::string text(most_bytes + 1, '\0');
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in.is_open() || in.bad() || (in.gcount() == 0 && errno != 0)) {
    return fail_errno(errno != 0 ? errno : EIO,
                      fmt::format("cannot read the configuration '{}'", file.native()));
  }
  text.resize(static_cast<std::size_t>(in.gcount()));
  auto config = parse_run_config(text);
  if (config) return config;
  return fail(config.error().kind, "configuration '{}': {}", file.native(), config.error().message);
}

}  // namespace tidepool::tools
