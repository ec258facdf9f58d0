#include "fs/control/pool_json.h"

#include <sys/types.h>
#include <unistd.h>

#include <charconv>

#include "base/scope_guard.h"

namespace tidepool::control {
namespace {

using nlohmann::json;
using pool::Pool;

// A VM or disk may be removed between its listing and our asking for it.
bool vanished(const Error& error) { return error.kind == ErrorKind::not_found; }

Result<> add_figures(json& out, Pool& pool, const blockdev::FileStore& store) {
  const pool::PoolFigures figures = pool.figures();
  const auto space = pool.space(pool::root_id);
  if (!space) return std::unexpected(space.error());
  const auto host = store.allocated_bytes();
  if (!host) return std::unexpected(host.error());
  out["uuid"] = figures.uuid;
  out["pool_bytes"] = figures.pool_bytes;
  out["metadata_bytes"] = figures.metadata_bytes;
  out["data_bytes"] = figures.data_bytes;
  out["used_bytes"] = figures.used_bytes;
  out["available_bytes"] = space->available;
  out["releasing_bytes"] = figures.releasing_bytes;
  out["reserved_bytes"] = figures.reserved_bytes;
  out["disk_bytes"] = figures.disk_bytes;
  out["host_bytes"] = *host;
  out["chunk_bytes"] = figures.chunk_bytes;
  out["block_bytes"] = pool::block_size;
  out["vm_count"] = figures.vms;
  out["disk_count"] = figures.disks;
  out["extent_count"] = figures.extents;
  out["map_memory_bytes"] = figures.map_memory_bytes;
  out["commits"] = figures.commits;
  out["checkpoints"] = figures.checkpoints;
  out["journal_bytes"] = figures.journal_bytes;
  out["recovered_records"] = figures.recovered_records;
  return {};
}

// JSON and Prometheus know UTF-8 alone, a name is any bytes.
std::string readable(const std::string& name) {
  return json::parse(json(name).dump(-1, ' ', false, json::error_handler_t::replace));
}

json attributes_json(const std::string& name, const pool::Attributes& attributes) {
  return {{"name", readable(name)},
          {"id", attributes.id},
          {"mode", fmt::format("{:04o}", attributes.mode)},
          {"uid", attributes.uid},
          {"gid", attributes.gid},
          {"used_bytes", attributes.allocated_bytes},
          {"modified", attributes.times.modify / 1'000'000'000}};
}

json disk_json(const pool::DirectoryEntry& entry, const pool::Attributes& attributes) {
  json disk = attributes_json(entry.name, attributes);
  disk["size_bytes"] = attributes.size;
  return disk;
}

// Neighbouring answers that are one range in the disk and in the pool become one.
void add_range(json& ranges, blockdev::Range& open, const blockdev::Range& next) {
  const bool placed = next.kind != blockdev::RangeKind::hole;
  if (open.length > 0 && open.kind == next.kind && open.offset + open.length == next.offset &&
      (!placed || open.leaf_offset + open.length == next.leaf_offset)) {
    open.length += next.length;
    return;
  }
  if (open.length > 0) {
    const char* kind = open.kind == blockdev::RangeKind::data   ? "data"
                       : open.kind == blockdev::RangeKind::zero ? "zero"
                                                                : "hole";
    json range = {{"offset", open.offset}, {"length", open.length}, {"kind", kind}};
    if (open.kind != blockdev::RangeKind::hole) range["pool_offset"] = open.leaf_offset;
    ranges.push_back(std::move(range));
  }
  open = next;
}

Result<json> ranges_json(Pool& pool, pool::NodeId id) {
  const auto disk = pool.hold(id);
  if (!disk) return std::unexpected(disk.error());
  const ScopeGuard release([&] { pool.release(*disk); });
  const auto attributes = pool.attributes(id);
  if (!attributes) return std::unexpected(attributes.error());
  json ranges = json::array();
  blockdev::Range open;
  if (attributes->size > 0) {
    const auto located =
        pool.locate(**disk, 0, attributes->size, [&](const blockdev::Range& range) {
          add_range(ranges, open, range);
          return true;
        });
    if (!located) return std::unexpected(located.error());
  }
  add_range(ranges, open, {});
  return ranges;
}

Result<json> disks_json(Pool& pool, pool::NodeId vm) {
  const auto entries = pool.list(vm);
  if (!entries) return std::unexpected(entries.error());
  json disks = json::array();
  for (const pool::DirectoryEntry& entry : *entries) {
    const auto attributes = pool.attributes(entry.id);
    if (!attributes) {
      if (vanished(attributes.error())) continue;
      return std::unexpected(attributes.error());
    }
    disks.push_back(disk_json(entry, *attributes));
  }
  return disks;
}

// Every VM, by its own members alone or with its disks.
Result<json> vms_json(Pool& pool, const std::function<Result<>(json& vm, pool::NodeId)>& extend) {
  const auto entries = pool.list(pool::root_id);
  if (!entries) return std::unexpected(entries.error());
  json vms = json::array();
  for (const pool::DirectoryEntry& entry : *entries) {
    auto vm = vm_json(pool, entry);
    if (vm)
      if (const auto extended = extend(*vm, entry.id); !extended)
        vm = std::unexpected(extended.error());
    if (vm)
      vms.push_back(std::move(*vm));
    else if (!vanished(vm.error()))
      return std::unexpected(vm.error());
  }
  return vms;
}

// "vm1/scratch.img", or a disk's id.
Result<pool::Attributes> find_disk(Pool& pool, std::string_view disk) {
  pool::NodeId id = 0;
  const auto [end, fault] = std::from_chars(disk.data(), disk.data() + disk.size(), id);
  if (fault == std::errc() && end == disk.data() + disk.size()) {
    auto attributes = pool.attributes(id);
    if (attributes && attributes->kind != pool::NodeKind::disk)
      return fail(ErrorKind::invalid_argument, "{} is not the id of a disk", disk);
    return attributes;
  }
  const auto slash = disk.find('/');
  if (slash == std::string_view::npos || slash == 0 || slash + 1 == disk.size() ||
      disk.find('/', slash + 1) != std::string_view::npos)
    return fail(ErrorKind::invalid_argument,
                "disk '{}': name it as VM/DISK, such as vm1/scratch.img", disk);
  const auto vm = pool.lookup(pool::root_id, disk.substr(0, slash));
  if (!vm) return vm;
  return pool.lookup(vm->id, disk.substr(slash + 1));
}

}  // namespace

const char* durability_name(pool::Durability durability) {
  return durability == pool::Durability::scratch ? "scratch" : "durable";
}

Result<pool::Durability> parse_durability(std::string_view text) {
  if (text == "durable") return pool::Durability::durable;
  if (text == "scratch") return pool::Durability::scratch;
  return fail(ErrorKind::invalid_argument, "durability '{}': it is either durable or scratch",
              text);
}

Result<json> info_json(Pool& pool, const blockdev::FileStore& store, const PoolContext& context) {
  json out;
  if (auto added = add_figures(out, pool, store); !added) return std::unexpected(added.error());
  out["path"] = context.pool_path;
  out["live"] = !context.mount_point.empty();
  if (!context.mount_point.empty()) {
    out["mount_point"] = context.mount_point;
    out["pid"] = ::getpid();
  }
  return out;
}

Result<json> vm_json(Pool& pool, const pool::DirectoryEntry& entry) {
  const auto attributes = pool.attributes(entry.id);
  if (!attributes) return std::unexpected(attributes.error());
  const auto settings = pool.vm_settings(entry.id);
  if (!settings) return std::unexpected(settings.error());
  const auto space = pool.space(entry.id);
  if (!space) return std::unexpected(space.error());
  json vm = attributes_json(entry.name, *attributes);
  vm["quota_bytes"] = settings->quota;
  vm["reserve_bytes"] = settings->reserve;
  vm["durability"] = durability_name(settings->durability);
  vm["available_bytes"] = space->available;
  return vm;
}

Result<json> list_json(Pool& pool) {
  auto vms = vms_json(pool, [&](json& vm, pool::NodeId id) -> Result<> {
    auto disks = disks_json(pool, id);
    if (!disks) return std::unexpected(disks.error());
    vm["disks"] = std::move(*disks);
    return {};
  });
  if (!vms) return std::unexpected(vms.error());
  return json{{"vms", std::move(*vms)}};
}

Result<json> stat_json(Pool& pool, const blockdev::FileStore& store) {
  json figures;
  if (auto added = add_figures(figures, pool, store); !added) return std::unexpected(added.error());
  auto vms = vms_json(pool, [&](json& vm, pool::NodeId id) -> Result<> {
    const auto attributes = pool.attributes(id);
    if (!attributes) return std::unexpected(attributes.error());
    vm["disk_count"] = attributes->children;
    return {};
  });
  if (!vms) return std::unexpected(vms.error());
  figures["vms"] = std::move(*vms);
  return figures;
}

Result<json> map_json(Pool& pool, std::string_view disk) {
  const auto missing = [&](const Error& error) -> std::unexpected<Error> {
    if (!vanished(error)) return std::unexpected(error);
    return fail(ErrorKind::not_found,
                "disk {}: the pool has no such disk; 'elasticctl list' names them", disk);
  };
  const auto attributes = find_disk(pool, disk);
  if (!attributes) return missing(attributes.error());
  const auto vm_name = pool.name_of(attributes->parent);
  const auto disk_name = pool.name_of(attributes->id);
  if (!vm_name || !disk_name) return missing((!vm_name ? vm_name : disk_name).error());
  auto ranges = ranges_json(pool, attributes->id);
  if (!ranges) return missing(ranges.error());
  return json{{"disk", readable(*vm_name + "/" + *disk_name)},
              {"id", attributes->id},
              {"size_bytes", attributes->size},
              {"used_bytes", attributes->allocated_bytes},
              {"ranges", std::move(*ranges)}};
}

std::string to_text(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace tidepool::control
