#include "fs/control/prometheus.h"

#include <fmt/format.h>

namespace tidepool::control {
namespace {

using nlohmann::json;

struct Metric {
  const char* member;  // in stat's JSON
  const char* name;    // "..._total": a counter, else a gauge
  const char* help;
};

// Names are a promise to dashboards: add, do not rename.
constexpr Metric pool_metrics[] = {
    {"pool_bytes", "elasticfs_pool_bytes", "Size of the pool file or device."},
    {"metadata_bytes", "elasticfs_metadata_bytes", "Space of the pool's own records."},
    {"data_bytes", "elasticfs_data_bytes", "Space for the data of disks."},
    {"used_bytes", "elasticfs_used_bytes", "Data space that disks hold."},
    {"available_bytes", "elasticfs_available_bytes",
     "Data space that new blocks without a reservation can still get."},
    {"releasing_bytes", "elasticfs_releasing_bytes", "Freed data space that is not reusable yet."},
    {"reserved_bytes", "elasticfs_reserved_bytes", "Reservations not yet used."},
    {"disk_bytes", "elasticfs_disk_bytes", "Sum of the sizes of all disks."},
    {"host_bytes", "elasticfs_host_bytes", "Space the pool occupies on its host."},
    {"vm_count", "elasticfs_vms", "Number of VM directories."},
    {"disk_count", "elasticfs_disks", "Number of disks."},
    {"extent_count", "elasticfs_extents", "Number of mapped extents."},
    {"map_memory_bytes", "elasticfs_map_memory_bytes", "Memory of the extent maps."},
    {"commits", "elasticfs_commits_total", "Commits since the pool was opened."},
    {"checkpoints", "elasticfs_checkpoints_total", "Checkpoints since the pool was opened."},
    {"journal_bytes", "elasticfs_journal_bytes_total",
     "Bytes written to the journal since the pool was opened."},
};

constexpr Metric vm_metrics[] = {
    {"used_bytes", "elasticfs_vm_used_bytes", "Data space that the VM's disks hold."},
    {"available_bytes", "elasticfs_vm_available_bytes", "Data space that the VM can still get."},
    {"quota_bytes", "elasticfs_vm_quota_bytes", "The VM's quota; 0 is no limit."},
    {"reserve_bytes", "elasticfs_vm_reserve_bytes", "The VM's reservation."},
    {"disk_count", "elasticfs_vm_disks", "Number of the VM's disks."},
};

std::string escape_label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

void add_head(std::string& out, const Metric& metric) {
  out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", metric.name, metric.help, metric.name,
                     std::string_view(metric.name).ends_with("_total") ? "counter" : "gauge");
}

}  // namespace

std::string prometheus_text(const json& stat) {
  const std::string uuid = stat.at("uuid").get<std::string>();
  std::string out;
  for (const Metric& metric : pool_metrics) {
    add_head(out, metric);
    out += fmt::format("{}{{pool=\"{}\"}} {}\n", metric.name, uuid,
                       stat.at(metric.member).get<std::uint64_t>());
  }
  for (const Metric& metric : vm_metrics) {
    if (stat.at("vms").empty()) break;
    add_head(out, metric);
    for (const json& vm : stat.at("vms"))
      out += fmt::format("{}{{pool=\"{}\",vm=\"{}\"}} {}\n", metric.name, uuid,
                         escape_label(vm.at("name").get<std::string>()),
                         vm.at(metric.member).get<std::uint64_t>());
  }
  return out;
}

}  // namespace tidepool::control
