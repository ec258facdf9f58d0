#include "fs/control/pool_control.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/size_text.h"

namespace tidepool::control {
namespace {

using nlohmann::json;

Result<json> parse_object(const std::string& body, std::initializer_list<const char*> members) {
  json object = json::parse(body, nullptr, false);
  if (!object.is_object())
    return fail(ErrorKind::invalid_argument, "the request's body is not a JSON object");
  for (const auto& [key, value] : object.items()) {
    bool known = false;
    for (const char* member : members) known = known || key == member;
    if (!known)
      return fail(ErrorKind::invalid_argument, "the request's body has an unknown member '{}'",
                  key);
  }
  return object;
}

// A number of bytes, or a size as people write it.
Result<std::optional<std::uint64_t>> size_member(const json& object, const char* name) {
  const auto member = object.find(name);
  if (member == object.end()) return std::optional<std::uint64_t>();
  if (member->is_number_unsigned()) return member->get<std::uint64_t>();
  if (!member->is_string())
    return fail(ErrorKind::invalid_argument,
                "'{}' is neither a number of bytes nor a size such as \"10G\"", name);
  const auto size = parse_size(member->get<std::string>());
  if (!size) return std::unexpected(size.error());
  return *size;
}

}  // namespace

Result<VmChanges> parse_vm_changes(const std::string& body) {
  const auto object = parse_object(body, {"quota", "reserve", "durability"});
  if (!object) return std::unexpected(object.error());
  VmChanges changes;
  const auto quota = size_member(*object, "quota");
  if (!quota) return std::unexpected(quota.error());
  const auto reserve = size_member(*object, "reserve");
  if (!reserve) return std::unexpected(reserve.error());
  changes.quota = *quota;
  changes.reserve = *reserve;
  if (const auto member = object->find("durability"); member != object->end()) {
    const auto durability =
        parse_durability(member->is_string() ? member->get<std::string>() : member->dump());
    if (!durability) return std::unexpected(durability.error());
    changes.durability = *durability;
  }
  return changes;
}

json to_json(const VmChanges& changes) {
  json object = json::object();
  if (changes.quota) object["quota"] = *changes.quota;
  if (changes.reserve) object["reserve"] = *changes.reserve;
  if (changes.durability) object["durability"] = durability_name(*changes.durability);
  return object;
}

Result<std::uint64_t> parse_grow(const std::string& body) {
  const auto object = parse_object(body, {"size"});
  if (!object) return std::unexpected(object.error());
  const auto size = size_member(*object, "size");
  if (!size) return std::unexpected(size.error());
  if (!*size) return fail(ErrorKind::invalid_argument, "the request's body has no 'size'");
  return **size;
}

Result<json> LocalControl::set_vm(const std::string& name, const VmChanges& changes) {
  const std::lock_guard lock(change_mutex_);
  const auto vm = pool_.lookup(pool::root_id, name);
  if (!vm) {
    if (vm.error().kind != ErrorKind::not_found) return std::unexpected(vm.error());
    return fail(ErrorKind::not_found,
                "VM {}: the pool has no such VM; mkdir on its mount point makes one", name);
  }
  auto settings = pool_.vm_settings(vm->id);
  if (!settings) return std::unexpected(settings.error());
  if (changes.quota) settings->quota = *changes.quota;
  if (changes.reserve) settings->reserve = *changes.reserve;
  if (changes.durability) settings->durability = *changes.durability;
  if (auto set = pool_.set_vm_settings(vm->id, *settings); !set)
    return std::unexpected(set.error());
  if (auto committed = pool_.commit(); !committed) return std::unexpected(committed.error());
  return vm_json(pool_, {vm->id, pool::NodeKind::vm, name});
}

// Brings the store to `size` and answers with the size the pool shall have.
Result<std::uint64_t> LocalControl::resize_store(std::uint64_t size) {
  struct stat status {};
  if (::fstat(store_.fd(), &status) != 0)
    return fail_errno(errno, fmt::format("pool {}", store_.name()));
  const std::uint64_t pool_size = pool_.figures().pool_bytes;
  const bool device = !S_ISREG(status.st_mode);
  if (size == 0 && !device)
    return fail(ErrorKind::invalid_argument, "pool {} is a file: say the size it shall grow to",
                store_.name());
  if (size != 0 && size < pool_size)
    return fail(ErrorKind::invalid_argument,
                "pool {} has {} and cannot shrink to {}; name a larger size", store_.name(),
                format_size_exactly(pool_size), format_size_exactly(size));
  if (device || size > store_.geometry().size)
    if (auto resized = store_.set_size(size); !resized) return std::unexpected(resized.error());
  const std::uint64_t store_size = store_.geometry().size;
  if (size > store_size)
    return fail(ErrorKind::no_space, "device {} has only {}; enlarge it first", store_.name(),
                format_size_exactly(store_size));
  return size == 0 ? store_size : size;
}

Result<json> LocalControl::grow(std::uint64_t size) {
  const std::lock_guard lock(change_mutex_);
  const auto new_size = resize_store(size);
  if (!new_size) return std::unexpected(new_size.error());
  if (*new_size > pool_.figures().pool_bytes) {
    if (auto grown = pool_.grow(*new_size); !grown) return std::unexpected(grown.error());
    if (auto committed = pool_.commit(); !committed) return std::unexpected(committed.error());
  }
  return info();
}

Result<json> RemoteControl::ask(const std::string& method, const std::string& path,
                                const std::map<std::string, std::string>& parameters,
                                const std::string& body) {
  const auto text = client_.request(method, path, parameters, body);
  if (!text) return std::unexpected(text.error());
  json reply = json::parse(*text, nullptr, false);
  if (reply.is_discarded())
    return fail(ErrorKind::corrupt, "control socket {}: {} {} was not answered with JSON",
                client_.socket_path(), method, path);
  return reply;
}

Result<json> RemoteControl::map(const std::string& disk) {
  return ask("GET", "/v1/map", {{"disk", disk}});
}

Result<json> RemoteControl::set_vm(const std::string& name, const VmChanges& changes) {
  return ask("PUT", "/v1/vm/" + name, {}, to_json(changes).dump());
}

Result<json> RemoteControl::grow(std::uint64_t size) {
  return ask("POST", "/v1/grow", {}, json{{"size", size}}.dump());
}

}  // namespace tidepool::control
