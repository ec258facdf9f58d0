// Space: statfs, holes, and the figures that are read and set as xattrs.
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/size_text.h"
#include "fs/fuse/operations.h"

namespace tidepool::elasticfs {

using blockdev::Range;
using blockdev::RangeKind;
using pool::Attributes;
using pool::NodeKind;

namespace {

void statfs(fuse_req_t request, fuse_ino_t node) {
  pool::Pool& pool = pool_of(request);
  auto attributes = pool.attributes(node == 0 ? pool::root_id : node);
  if (!attributes) return reply_error(request, attributes.error());
  // A disk is asked for its VM, whose space it shares.
  bool disk = attributes->kind == NodeKind::disk;
  auto space = pool.space(!disk ? attributes->id
                                : (attributes->parent != 0 ? attributes->parent : pool::root_id));
  if (!space) return reply_error(request, space.error());
  struct statvfs s {};
  s.f_bsize = s.f_frsize = pool::block_size;
  s.f_blocks = space->total / pool::block_size;
  s.f_bfree = s.f_bavail = space->available / pool::block_size;
  s.f_namemax = pool::name_limit;
  fuse_reply_statfs(request, &s);
}

// The next data or hole from `offset` on, as lseek(2) has it; a positive errno
// otherwise. `all_data`: holes are not known, so there is but the one at the end.
std::expected<std::uint64_t, int> seek(pool::Pool& pool, const OpenDisk& opened,
                                       std::uint64_t offset, int whence, bool all_data) {
  auto attributes = pool.attributes(opened.id);
  if (!attributes) return std::unexpected(attributes.error().errno_value);
  if (offset >= attributes->size) return std::unexpected(ENXIO);
  if (all_data) return whence == SEEK_DATA ? offset : attributes->size;
  std::optional<std::uint64_t> found;
  if (whence == SEEK_HOLE) found = attributes->size;
  auto located = pool.locate(*opened.disk, offset, attributes->size - offset, [&](const Range& r) {
    if ((r.kind == RangeKind::data) != (whence == SEEK_DATA)) return true;
    found = r.offset;
    return false;
  });
  if (!located) return std::unexpected(located.error().errno_value);
  if (!found) return std::unexpected(ENXIO);
  return *found;
}

void reply_seek(fuse_req_t request, std::expected<std::uint64_t, int> found) {
  if (found)
    fuse_reply_lseek(request, static_cast<off_t>(*found));
  else
    fuse_reply_err(request, found.error());
}

void lseek(fuse_req_t request, fuse_ino_t node, off_t offset, int whence, fuse_file_info* file) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return void(fuse_reply_err(request, EINVAL));
  if (offset < 0) return void(fuse_reply_err(request, ENXIO));
  Session& session = session_of(request);
  OpenDisk* opened = open_disk(file);
  auto at = static_cast<std::uint64_t>(offset);
  if (!session.cached_writers().contains(node))
    return reply_seek(request, seek(session.pool(), *opened, at, whence, false));
  // The kernel's dirty pages first: they are not in the map yet.
  Exchange& exchange = *std::exchange(Exchange::current, nullptr);
  exchange.request = request;
  session.cached_writers().write_back(
      node, [&session, &exchange, opened, at, whence](bool written) {
        exchange.worker->loop().post([&session, &exchange, opened, at, whence, written] {
          reply_seek(answering(exchange), seek(session.pool(), *opened, at, whence, !written));
        });
      });
}

// --- xattrs: user.elasticfs.NAME ---

constexpr std::string_view prefix = "user.elasticfs.";

struct Figure {
  std::string_view name;
  NodeKind kind;
  std::string (*read)(Session& session, const Attributes& attributes);
};

pool::VmSettings settings_of(Session& session, const Attributes& attributes) {
  auto settings = session.pool().vm_settings(attributes.id);
  return settings ? *settings : pool::VmSettings{};
}

const Figure figures[] = {
    {"uuid", NodeKind::root, [](Session& s, const Attributes&) { return s.pool().figures().uuid; }},
    {"pool", NodeKind::root, [](Session& s, const Attributes&) { return s.options().pool; }},
    {"used", NodeKind::root,
     [](Session& s, const Attributes&) { return std::to_string(s.pool().figures().used_bytes); }},
    {"data", NodeKind::root,
     [](Session& s, const Attributes&) { return std::to_string(s.pool().figures().data_bytes); }},
    {"used", NodeKind::vm,
     [](Session&, const Attributes& a) { return std::to_string(a.allocated_bytes); }},
    {"quota", NodeKind::vm,
     [](Session& s, const Attributes& a) { return std::to_string(settings_of(s, a).quota); }},
    {"reserve", NodeKind::vm,
     [](Session& s, const Attributes& a) { return std::to_string(settings_of(s, a).reserve); }},
    {"durability", NodeKind::vm,
     [](Session& s, const Attributes& a) -> std::string {
       return settings_of(s, a).durability == pool::Durability::scratch ? "scratch" : "durable";
     }},
    {"allocated", NodeKind::disk,
     [](Session&, const Attributes& a) { return std::to_string(a.allocated_bytes); }},
};

// As getxattr(2) has it: size 0 asks for the length.
void reply_value(fuse_req_t request, std::string_view value, std::size_t size) {
  if (size == 0) return void(fuse_reply_xattr(request, value.size()));
  if (value.size() > size) return void(fuse_reply_err(request, ERANGE));
  fuse_reply_buf(request, value.data(), value.size());
}

void getxattr(fuse_req_t request, fuse_ino_t node, const char* name_text, std::size_t size) {
  std::string_view name = name_text;
  auto attributes = pool_of(request).attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  if (name.starts_with(prefix)) {
    name.remove_prefix(prefix.size());
    for (const Figure& figure : figures)
      if (figure.kind == attributes->kind && figure.name == name)
        return reply_value(request, figure.read(session_of(request), *attributes), size);
  }
  fuse_reply_err(request, ENODATA);
}

void listxattr(fuse_req_t request, fuse_ino_t node, std::size_t size) {
  auto attributes = pool_of(request).attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  std::string names;
  for (const Figure& figure : figures) {
    if (figure.kind != attributes->kind) continue;
    names.append(prefix).append(figure.name);
    names += '\0';
  }
  reply_value(request, names, size);
}

Result<> change_setting(pool::VmSettings& settings, std::string_view name, std::string_view value) {
  if (name == "durability") {
    if (value != "durable" && value != "scratch")
      return fail(ErrorKind::invalid_argument, "durability is durable or scratch");
    settings.durability =
        value == "scratch" ? pool::Durability::scratch : pool::Durability::durable;
    return {};
  }
  auto bytes = parse_size(value);
  if (!bytes) return std::unexpected(bytes.error());
  (name == "quota" ? settings.quota : settings.reserve) = *bytes;
  return {};
}

void setxattr(fuse_req_t request, fuse_ino_t node, const char* name_text, const char* value,
              std::size_t size, int) {
  std::string_view name = name_text;
  pool::Pool& pool = pool_of(request);
  auto attributes = pool.attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  if (!name.starts_with(prefix)) return void(fuse_reply_err(request, EOPNOTSUPP));
  name.remove_prefix(prefix.size());
  bool settable = attributes->kind == NodeKind::vm &&
                  (name == "quota" || name == "reserve" || name == "durability");
  if (!settable) return void(fuse_reply_err(request, EPERM));
  if (fuse_req_ctx(request)->uid != 0) return void(fuse_reply_err(request, EPERM));
  auto settings = pool.vm_settings(node);
  if (!settings) return reply_error(request, settings.error());
  auto changed = change_setting(*settings, name, {value, size});
  if (changed) changed = pool.set_vm_settings(node, *settings);
  fuse_reply_err(request, changed ? 0 : changed.error().errno_value);
}

void removexattr(fuse_req_t request, fuse_ino_t, const char*) { fuse_reply_err(request, ENODATA); }

}  // namespace

void add_space_operations(fuse_lowlevel_ops& ops) {
  ops.statfs = statfs;
  ops.lseek = lseek;
  ops.getxattr = getxattr;
  ops.setxattr = setxattr;
  ops.listxattr = listxattr;
  ops.removexattr = removexattr;
}

}  // namespace tidepool::elasticfs
