#include "vmm/tools/show_machines.h"

#include "base/size_text.h"
#include "base/text_table.h"

namespace tidepool::tools {

std::string machines_table(const std::vector<nlohmann::json>& machines) {
  using Align = TextTable::Align;
  TextTable table({{"name"},
                   {"pid", Align::right},
                   {"state"},
                   {"cpus", Align::right},
                   {"memory", Align::right},
                   {"exits", Align::right},
                   {"disks"}});
  for (const auto& machine : machines) {
    std::string disks;
    nlohmann::json all = machine["disks"];
    for (const auto& disk : machine.value("scsi_disks", nlohmann::json::array()))
      all.push_back(disk);
    for (const auto& disk : all) {
      disks += fmt::format("{}{}{}", disks.empty() ? "" : ", ", disk["name"].get<std::string>(),
                           disk.value("read_only", false) ? " (read-only)" : "");
    }
    table.add({machine["name"], std::to_string(machine["pid"].get<int>()), machine["state"],
               std::to_string(machine["cpus"].get<unsigned>()),
               format_size(machine["memory"].get<std::uint64_t>()),
               std::to_string(machine["exits"].get<std::uint64_t>()), printable(disks)});
  }
  return table.render();
}

std::string figures_tables(const nlohmann::json& figures) {
  using Align = TextTable::Align;
  const auto& exits = figures.at("exits");
  const std::string text = fmt::format(
      "memory: {} of {} in use, {} in the balloon of {} asked for\nexits: {} for ports, {} for "
      "memory, {} others; {} interrupted\n\n",
      format_size(figures.at("memory_used_bytes").get<std::uint64_t>()),
      format_size(figures.at("memory_bytes").get<std::uint64_t>()),
      format_size(figures.at("balloon_bytes").get<std::uint64_t>()),
      format_size(figures.at("balloon_target_bytes").get<std::uint64_t>()),
      exits.at("port").get<std::uint64_t>(), exits.at("memory").get<std::uint64_t>(),
      exits.at("other").get<std::uint64_t>(), exits.at("interrupted").get<std::uint64_t>());
  TextTable table({{"device"},
                   {"kicks", Align::right},
                   {"interrupts", Align::right},
                   {"requests", Align::right},
                   {"from guest", Align::right},
                   {"to guest", Align::right}});
  for (const auto& device : figures.at("devices")) {
    const bool served = device.contains("requests");
    const auto number = [&](const char* member) {
      return served ? std::to_string(device.at(member).get<std::uint64_t>()) : "-";
    };
    const auto bytes = [&](const char* member) {
      return served ? format_size(device.at(member).get<std::uint64_t>()) : "-";
    };
    table.add({printable(device.at("name").get<std::string>()), number("kicks"),
               std::to_string(device.at("interrupts").get<std::uint64_t>()), number("requests"),
               bytes("bytes_from_guest"), bytes("bytes_to_guest")});
  }
  return text + table.render();
}

}  // namespace tidepool::tools
