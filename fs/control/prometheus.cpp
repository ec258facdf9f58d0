#include "fs/control/prometheus.h"

#include "base/prometheus_text.h"

namespace tidepool::control {
namespace {

using nlohmann::json;

struct Member {
  const char* name;  // in stat's JSON
  Metric metric;
};

// Names are a promise to dashboards: add, do not rename.
constexpr Member pool_members[] = {
    {"pool_bytes", {"elasticfs_pool_bytes", "Size of the pool file or device."}},
    {"metadata_bytes", {"elasticfs_metadata_bytes", "Space of the pool's own records."}},
    {"data_bytes", {"elasticfs_data_bytes", "Space for the data of disks."}},
    {"used_bytes", {"elasticfs_used_bytes", "Data space that disks hold."}},
    {"available_bytes",
     {"elasticfs_available_bytes",
      "Data space that new blocks without a reservation can still get."}},
    {"releasing_bytes",
     {"elasticfs_releasing_bytes", "Freed data space that is not reusable yet."}},
    {"reserved_bytes", {"elasticfs_reserved_bytes", "Reservations not yet used."}},
    {"disk_bytes", {"elasticfs_disk_bytes", "Sum of the sizes of all disks."}},
    {"host_bytes", {"elasticfs_host_bytes", "Space the pool occupies on its host."}},
    {"vm_count", {"elasticfs_vms", "Number of VM directories."}},
    {"disk_count", {"elasticfs_disks", "Number of disks."}},
    {"extent_count", {"elasticfs_extents", "Number of mapped extents."}},
    {"map_memory_bytes", {"elasticfs_map_memory_bytes", "Memory of the extent maps."}},
    {"commits", {"elasticfs_commits_total", "Commits since the pool was opened."}},
    {"checkpoints", {"elasticfs_checkpoints_total", "Checkpoints since the pool was opened."}},
    {"journal_bytes",
     {"elasticfs_journal_bytes_total", "Bytes written to the journal since the pool was opened."}},
};

constexpr Member vm_members[] = {
    {"used_bytes", {"elasticfs_vm_used_bytes", "Data space that the VM's disks hold."}},
    {"available_bytes", {"elasticfs_vm_available_bytes", "Data space that the VM can still get."}},
    {"quota_bytes", {"elasticfs_vm_quota_bytes", "The VM's quota; 0 is no limit."}},
    {"reserve_bytes", {"elasticfs_vm_reserve_bytes", "The VM's reservation."}},
    {"disk_count", {"elasticfs_vm_disks", "Number of the VM's disks."}},
};

}  // namespace

std::string prometheus_text(const json& stat) {
  const std::string uuid = stat.at("uuid").get<std::string>();
  PrometheusText text;
  for (const Member& member : pool_members) {
    text.family(member.metric);
    text.sample({{"pool", uuid}}, stat.at(member.name).get<std::uint64_t>());
  }
  for (const Member& member : vm_members) {
    if (stat.at("vms").empty()) break;
    text.family(member.metric);
    for (const json& vm : stat.at("vms")) {
      text.sample({{"pool", uuid}, {"vm", vm.at("name").get<std::string>()}},
                  vm.at(member.name).get<std::uint64_t>());
    }
  }
  return text.text();
}

}  // namespace tidepool::control
