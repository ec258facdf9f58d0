// Names, attributes, directories.
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "fs/fuse/operations.h"

namespace tidepool::elasticfs {

using pool::Attributes;
using pool::NodeId;
using pool::NodeKind;

struct stat stat_of(const Attributes& a) {
  struct stat s {};
  bool disk = a.kind == NodeKind::disk;
  auto time = [](std::int64_t ns) {
    timespec t{};
    t.tv_sec = ns / 1'000'000'000;
    t.tv_nsec = ns % 1'000'000'000;
    return t;
  };
  s.st_ino = a.id;
  s.st_mode = a.mode | (disk ? S_IFREG : S_IFDIR);
  s.st_nlink = disk ? (a.parent != 0 ? 1 : 0) : 2 + (a.kind == NodeKind::root ? a.children : 0);
  s.st_uid = a.uid;
  s.st_gid = a.gid;
  s.st_size = static_cast<off_t>(a.size);
  s.st_blksize = pool::block_size;
  s.st_blocks = disk ? static_cast<blkcnt_t>(a.allocated_bytes / 512) : 0;
  s.st_atim = time(a.times.access);
  s.st_mtim = time(a.times.modify);
  s.st_ctim = time(a.times.change);
  return s;
}

namespace {

fuse_entry_param entry_of(const Attributes& attributes) {
  fuse_entry_param entry{};
  entry.ino = attributes.id;
  entry.generation = 1;  // ids are never given out twice
  entry.attr = stat_of(attributes);
  entry.attr_timeout = attribute_timeout;
  entry.entry_timeout = entry_timeout;
  return entry;
}

void reply_entry(fuse_req_t request, const Result<Attributes>& attributes) {
  if (!attributes) return reply_error(request, attributes.error());
  fuse_entry_param entry = entry_of(*attributes);
  fuse_reply_entry(request, &entry);
}

void reply_made(fuse_req_t request, const Result<Attributes>& made) {
  if (made) session_of(request).node_changed(made->id);
  reply_entry(request, made);
}

// The node that has the name now, for node_changed() when it has lost it; 0: none has.
NodeId node_at(fuse_req_t request, NodeId parent, const char* name) {
  const auto found = pool_of(request).lookup(parent, name);
  return found ? found->id : 0;
}

void reply_result(fuse_req_t request, const Result<>& result) {
  fuse_reply_err(request, result ? 0 : result.error().errno_value);
}

void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  reply_entry(request, pool_of(request).lookup(parent, name));
}

void getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info*) {
  auto attributes = pool_of(request).attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  struct stat s = stat_of(*attributes);
  fuse_reply_attr(request, &s, attribute_timeout);
}

void mkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  if (parent != pool::root_id) return void(fuse_reply_err(request, EPERM));
  // A VM's disks are nobody else's business, whatever the caller's umask says.
  reply_made(request, pool_of(request).make_vm(name, mode & 07700, caller->uid, caller->gid));
}

void mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  if (!S_ISREG(mode)) return void(fuse_reply_err(request, EPERM));
  reply_made(request, pool_of(request).make_disk(parent, name, mode & disk_mode_mask, caller->uid,
                                                 caller->gid));
}

void refuse_link(fuse_req_t request, fuse_ino_t, fuse_ino_t, const char*) {
  fuse_reply_err(request, EPERM);
}

void refuse_symlink(fuse_req_t request, const char*, fuse_ino_t, const char*) {
  fuse_reply_err(request, EPERM);
}

void unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const NodeId disk = node_at(request, parent, name);
  const auto removed = pool_of(request).remove_disk(parent, name);
  if (removed) session_of(request).node_changed(disk);
  reply_result(request, removed);
}

void rmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  if (parent == pool::root_id) {
    const NodeId vm = node_at(request, parent, name);
    const auto removed = pool_of(request).remove_vm(name);
    if (removed) session_of(request).node_changed(vm);
    return reply_result(request, removed);
  }
  auto found = pool_of(request).lookup(parent, name);
  fuse_reply_err(request, found ? ENOTDIR : found.error().errno_value);
}

void rename(fuse_req_t request, fuse_ino_t from, const char* from_name, fuse_ino_t to,
            const char* to_name, unsigned flags) {
  constexpr unsigned no_replace = 1;  // RENAME_NOREPLACE
  if ((flags & ~no_replace) != 0) return void(fuse_reply_err(request, EINVAL));
  const NodeId moved = node_at(request, from, from_name), replaced = node_at(request, to, to_name);
  const auto renamed =
      pool_of(request).rename(from, from_name, to, to_name, (flags & no_replace) != 0);
  if (renamed && replaced != 0 && replaced != moved) session_of(request).node_changed(replaced);
  if (renamed) session_of(request).node_changed(moved);
  reply_result(request, renamed);
}

// A file opened for direct I/O bypasses the page cache, and its writes run in
// parallel; any other is cached, and stays so from one open to the next. While a front
// end writes to the disk, all bypass it.
void set_up(fuse_req_t request, fuse_file_info& file, NodeId id, pool::Disk* disk) {
  bool writes = (file.flags & O_ACCMODE) != O_RDONLY;
  DiskUsers::Opening opening;
  const bool bypasses = (file.flags & O_DIRECT) != 0;
  if (!bypasses) opening = session_of(request).disk_users().open(id);
  if (bypasses && writes) session_of(request).disk_users().open_direct(id);
  const bool direct = !opening.cached;
  auto opened = std::make_unique<OpenDisk>(OpenDisk{.id = id,
                                                    .disk = disk,
                                                    .cached = opening.cached,
                                                    .dirties_cache = writes && opening.cached,
                                                    .writes_direct = writes && bypasses});
  if (opened->dirties_cache) session_of(request).cached_writers().add(id);
  file.fh = session_of(request).open_disks().keep(std::move(opened));
  file.keep_cache = direct || opening.keep_cache ? 1 : 0;
  file.direct_io = direct ? 1 : 0;
  Session::opening_direct = direct;
}

void create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
            fuse_file_info* file) {
  const fuse_ctx* caller = fuse_req_ctx(request);
  pool::Pool& pool = pool_of(request);
  auto made = pool.make_disk(parent, name, mode & disk_mode_mask, caller->uid, caller->gid);
  if (!made) return reply_error(request, made.error());
  auto disk = pool.hold(made->id);
  if (!disk) return reply_error(request, disk.error());
  session_of(request).node_changed(made->id);
  set_up(request, *file, made->id, *disk);
  fuse_entry_param entry = entry_of(*made);
  fuse_reply_create(request, &entry, file);
}

void open(fuse_req_t request, fuse_ino_t node, fuse_file_info* file) {
  auto disk = pool_of(request).hold(node);
  if (!disk) return reply_error(request, disk.error());
  set_up(request, *file, node, *disk);
  fuse_reply_open(request, file);
}

void release(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  if (auto opened = session_of(request).open_disks().take(file->fh))
    session_of(request).close(*opened);
  fuse_reply_err(request, 0);
}

// --- directories: a listing is taken when the directory is opened ---

Listing* listing_of(const fuse_file_info* file) { return reinterpret_cast<Listing*>(file->fh); }

void opendir(fuse_req_t request, fuse_ino_t node, fuse_file_info* file) {
  pool::Pool& pool = pool_of(request);
  auto attributes = pool.attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  file->fh = session_of(request).listings().keep(
      std::make_unique<Listing>(Listing{node, attributes->parent, {}}));
  fuse_reply_open(request, file);
}

void releasedir(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  session_of(request).listings().take(file->fh);
  fuse_reply_err(request, 0);
}

void list(fuse_req_t request, std::size_t size, off_t offset, fuse_file_info* file, bool plus) {
  Listing& listing = *listing_of(file);
  pool::Pool& pool = pool_of(request);
  if (offset == 0) {  // from the beginning (rewinddir, too): what is there now
    auto entries = pool.list(listing.id);
    if (!entries) return reply_error(request, entries.error());
    listing.entries = std::move(*entries);
  }
  std::vector<char> buffer(size);
  std::size_t used = 0;
  for (std::size_t i = static_cast<std::size_t>(offset); i < listing.entries.size() + 2; ++i) {
    const char* name = i == 0 ? "." : i == 1 ? ".." : listing.entries[i - 2].name.c_str();
    NodeId id = i == 0 ? listing.id : i == 1 ? listing.parent : listing.entries[i - 2].id;
    Result<Attributes> attributes = pool.attributes(id);
    if (!attributes) continue;  // removed since
    fuse_entry_param entry = entry_of(*attributes);
    if (i < 2) entry.ino = 0;  // no look-up is counted for these
    auto next = static_cast<off_t>(i + 1);
    std::size_t needed = plus ? fuse_add_direntry_plus(request, buffer.data() + used, size - used,
                                                       name, &entry, next)
                              : fuse_add_direntry(request, buffer.data() + used, size - used, name,
                                                  &entry.attr, next);
    if (needed > size - used) break;
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void readdir(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info* file) {
  list(request, size, offset, file, false);
}

void readdirplus(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                 fuse_file_info* file) {
  list(request, size, offset, file, true);
}

void initialize(void* session, fuse_conn_info* connection) {
  static_cast<Session*>(session)->initialize(*connection);
}

}  // namespace

void add_name_operations(fuse_lowlevel_ops& ops) {
  ops.init = initialize;
  ops.lookup = lookup;
  ops.getattr = getattr;
  ops.mkdir = mkdir;
  ops.mknod = mknod;
  ops.link = refuse_link;
  ops.symlink = refuse_symlink;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.create = create;
  ops.open = open;
  ops.release = release;
  ops.opendir = opendir;
  ops.releasedir = releasedir;
  ops.readdir = readdir;
  ops.readdirplus = readdirplus;
}

fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops ops{};
  add_name_operations(ops);
  add_data_operations(ops);
  add_space_operations(ops);
  return ops;
}

}  // namespace tidepool::elasticfs
