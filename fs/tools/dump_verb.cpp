#include "fs/tools/dump_verb.h"

#include <unistd.h>

#include <optional>

#include "base/progress_bar.h"
#include "fs/tools/show.h"

namespace tidepool::tools {
namespace {

using nlohmann::json;
using Print = std::function<void(const std::string&)>;

std::string one_line(const json& value) {
  std::string text = control::to_text(value);
  text.pop_back();
  return text;
}

// An object without its closing brace: one more member follows.
std::string open_object(const json& object) {
  std::string text = one_line(object);
  text.pop_back();
  return text;
}

class Dump {
 public:
  Dump(control::PoolControl& control, bool as_json, const Print& print, std::uint64_t disks)
      : control_(control), as_json_(as_json), print_(print) {
    // A terminal that shows the dump needs no bar in it.
    if (::isatty(STDOUT_FILENO) == 0) bar_.emplace("dump", disks);
  }

  Result<> vm(json vm, bool first) {
    const json disks = std::move(vm["disks"]);
    vm.erase("disks");
    print_(as_json_ ? (first ? "" : ",\n") + open_object(vm) + ",\"disks\":[" : "\n" + show_vm(vm));
    bool first_disk = true;
    for (const json& disk : disks) {
      const auto shown = this->disk(disk, first_disk);
      if (!shown) return std::unexpected(shown.error());
      first_disk = first_disk && !*shown;
      ++done_;
      if (bar_) bar_->update(done_);
    }
    if (as_json_) print_("]}");
    return {};
  }

 private:
  // false: the disk is gone by now.
  Result<bool> disk(const json& disk, bool first) {
    const auto map = control_.map(std::to_string(disk.at("id").get<std::uint64_t>()));
    if (!map) {
      if (map.error().kind == ErrorKind::not_found) return false;
      return std::unexpected(map.error());
    }
    print_(as_json_ ? (first ? "\n" : ",\n") + open_object(disk) +
                          ",\"ranges\":" + one_line(map->at("ranges")) + "}"
                    : "\n" + show_map(*map));
    return true;
  }

  control::PoolControl& control_;
  const bool as_json_;
  const Print& print_;
  std::optional<ProgressBar> bar_;
  std::uint64_t done_ = 0;
};

}  // namespace

Result<> dump_pool(control::PoolControl& control, bool as_json, const Print& print) {
  const auto info = control.info();
  if (!info) return std::unexpected(info.error());
  const auto list = control.list();
  if (!list) return std::unexpected(list.error());
  print(as_json ? "{\"info\":" + one_line(*info) + ",\n\"vms\":[" : show_info(*info));
  Dump dump(control, as_json, print, info->at("disk_count").get<std::uint64_t>());
  bool first = true;
  for (const json& vm : list->at("vms")) {
    if (auto shown = dump.vm(vm, first); !shown) return shown;
    first = false;
  }
  if (as_json) print("]}\n");
  return {};
}

}  // namespace tidepool::tools
