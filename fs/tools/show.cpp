#include "fs/tools/show.h"

#include "base/size_text.h"
#include "base/text_table.h"

namespace tidepool::tools {
namespace {

using nlohmann::json;
using Align = TextTable::Align;

std::uint64_t number(const json& object, const char* member) {
  return object.at(member).get<std::uint64_t>();
}

std::string text(const json& object, const char* member) {
  return object.at(member).get<std::string>();
}

std::string size(const json& object, const char* member) {
  return format_size(number(object, member));
}

// A limit of zero is no limit.
std::string limit(const json& object, const char* member) {
  const std::uint64_t bytes = number(object, member);
  return bytes == 0 ? "-" : format_size(bytes);
}

std::string percent_of(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.0f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

void add_space(TextTable& table, const json& figures) {
  const std::uint64_t data = number(figures, "data_bytes"), used = number(figures, "used_bytes");
  table.add({"size", size(figures, "pool_bytes")});
  table.add({"for data", format_size(data)});
  table.add({"used", fmt::format("{} ({})", format_size(used), percent_of(used, data))});
  table.add({"available", size(figures, "available_bytes")});
  table.add({"being released", size(figures, "releasing_bytes")});
  table.add({"reserved, unused", size(figures, "reserved_bytes")});
  table.add({"occupied on host", size(figures, "host_bytes")});
  table.add({"sum of disk sizes", size(figures, "disk_bytes")});
}

void add_range(TextTable& table, const json& range) {
  table.add(
      {fmt::format("{}", number(range, "offset")), size(range, "length"), text(range, "kind"),
       range.contains("pool_offset") ? fmt::format("{}", number(range, "pool_offset")) : "-"});
}

TextTable ranges_table(const json& ranges) {
  TextTable table({{"OFFSET", Align::right},
                   {"LENGTH", Align::right},
                   {"KIND", Align::left},
                   {"POOL OFFSET", Align::right}});
  for (const json& range : ranges) add_range(table, range);
  return table;
}

std::size_t mapped_ranges(const json& ranges) {
  std::size_t count = 0;
  for (const json& range : ranges) count += range.contains("pool_offset") ? 1 : 0;
  return count;
}

}  // namespace

std::string show_info(const json& info) {
  TextTable table({{"", Align::left}, {"", Align::left}});
  table.add({"pool", text(info, "path")});
  table.add({"uuid", text(info, "uuid")});
  table.add({"state", info.at("live").get<bool>()
                          ? fmt::format("mounted on {} by process {}", text(info, "mount_point"),
                                        number(info, "pid"))
                          : "offline"});
  add_space(table, info);
  table.add({"pool's own records", size(info, "metadata_bytes")});
  table.add({"chunk", size(info, "chunk_bytes")});
  table.add({"VMs", fmt::format("{}", number(info, "vm_count"))});
  table.add({"disks", fmt::format("{}", number(info, "disk_count"))});
  table.add({"extents", fmt::format("{} ({} of memory)", number(info, "extent_count"),
                                    size(info, "map_memory_bytes"))});
  return table.render();
}

std::string show_list(const json& list) {
  TextTable table({{"NAME", Align::left},
                   {"SIZE", Align::right},
                   {"USED", Align::right},
                   {"QUOTA", Align::right},
                   {"RESERVE", Align::right},
                   {"DURABILITY", Align::left},
                   {"MODE", Align::left},
                   {"OWNER", Align::left}});
  const auto owner = [](const json& node) {
    return fmt::format("{}:{}", number(node, "uid"), number(node, "gid"));
  };
  for (const json& vm : list.at("vms")) {
    const std::string name = text(vm, "name");
    table.add({name + "/", "-", size(vm, "used_bytes"), limit(vm, "quota_bytes"),
               limit(vm, "reserve_bytes"), text(vm, "durability"), text(vm, "mode"), owner(vm)});
    for (const json& disk : vm.at("disks"))
      table.add({name + "/" + text(disk, "name"), size(disk, "size_bytes"),
                 size(disk, "used_bytes"), "", "", "", text(disk, "mode"), owner(disk)});
  }
  return table.empty() ? "the pool has no VMs yet: mkdir on its mount point makes one\n"
                       : table.render();
}

std::string show_stat(const json& stat) {
  TextTable figures({{"", Align::left}, {"", Align::left}});
  add_space(figures, stat);
  figures.add({"extents", fmt::format("{} ({} of memory)", number(stat, "extent_count"),
                                      size(stat, "map_memory_bytes"))});
  figures.add({"since open",
               fmt::format("{} commits, {} checkpoints, {} of journal", number(stat, "commits"),
                           number(stat, "checkpoints"), size(stat, "journal_bytes"))});
  TextTable vms({{"VM", Align::left},
                 {"DISKS", Align::right},
                 {"USED", Align::right},
                 {"AVAILABLE", Align::right},
                 {"QUOTA", Align::right},
                 {"RESERVE", Align::right},
                 {"DURABILITY", Align::left}});
  for (const json& vm : stat.at("vms"))
    vms.add({text(vm, "name"), fmt::format("{}", number(vm, "disk_count")), size(vm, "used_bytes"),
             size(vm, "available_bytes"), limit(vm, "quota_bytes"), limit(vm, "reserve_bytes"),
             text(vm, "durability")});
  return figures.render() + (vms.empty() ? "" : "\n" + vms.render());
}

std::string show_map(const json& map) {
  const json& ranges = map.at("ranges");
  const std::size_t mapped = mapped_ranges(ranges);
  const std::string head =
      fmt::format("{}: {}, {} used in {} range{}\n", printable(text(map, "disk")),
                  size(map, "size_bytes"), size(map, "used_bytes"), mapped, mapped == 1 ? "" : "s");
  return ranges.empty() ? head : head + ranges_table(ranges).render();
}

std::string show_vm(const json& vm) {
  const auto named_limit = [&](const char* member) {
    const std::uint64_t bytes = number(vm, member);
    return bytes == 0 ? std::string("none") : format_size(bytes);
  };
  return fmt::format("VM {}: quota {}, reserve {}, {}, {} used\n", printable(text(vm, "name")),
                     named_limit("quota_bytes"), named_limit("reserve_bytes"),
                     text(vm, "durability"), size(vm, "used_bytes"));
}

std::string show_check(const json& report) {
  std::string out;
  const auto add = [&](const char* label, const json& lines) {
    for (const json& line : lines)
      out += fmt::format("{}{}\n", label, printable(line.get<std::string>()));
  };
  const json &findings = report.at("findings"), &losses = report.at("losses"),
             &repaired = report.at("repaired");
  add("found:    ", findings);
  add("lost:     ", losses);
  add("repaired: ", repaired);
  const bool faulty = !findings.empty() || !losses.empty();
  out +=
      fmt::format("pool {}: {} ({} VMs, {} disks, {} extents, {} used)\n", text(report, "path"),
                  !faulty             ? "no faults"
                  : !repaired.empty() ? "repaired"
                                      : "faulty; 'elasticctl check --repair' repairs what can be",
                  number(report, "vm_count"), number(report, "disk_count"),
                  number(report, "extent_count"), size(report, "used_bytes"));
  if (const auto records = number(report, "journal_records"); records > 0)
    out += fmt::format("note: it was not closed cleanly; {} journal records make up for that\n",
                       records);
  if (report.contains("leaked_bytes") && number(report, "leaked_bytes") > 0)
    out += fmt::format("note: the host holds {} for blocks that are free\n",
                       size(report, "leaked_bytes"));
  return out;
}

}  // namespace tidepool::tools
