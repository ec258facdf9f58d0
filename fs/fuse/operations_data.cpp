// Data: read, write, truncate, fallocate, fsync. All end asynchronously.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "fs/fuse/operations.h"

namespace tidepool::elasticfs {

using blockdev::IoOp;
using blockdev::IoRequest;

void submit(Exchange& exchange, pool::Disk& disk, void (*then)(Exchange& self, int error)) {
  exchange.then = then;
  exchange.force_unit_access = false;
  exchange.complete = [](IoRequest& io, int error) {
    Exchange& self = static_cast<Exchange&>(io);
    self.then(self, error);
  };
  exchange.worker->channel().submit(disk, exchange);
}

namespace {

Exchange& begin(fuse_req_t request) {
  Exchange& exchange = *std::exchange(Exchange::current, nullptr);
  exchange.request = request;
  exchange.disk = nullptr;
  exchange.argument = 0;
  exchange.buffer_count = 0;
  return exchange;
}

// Back to answering at once, where nothing was submitted.
void answer(Exchange& exchange, int error) { fuse_reply_err(answering(exchange), error); }

// argument: the bytes asked for. Answers with what is there, less behind the end.
void read_present(Exchange& exchange) {
  fuse_req_t request = exchange.request;
  auto attributes = pool_of(request).attributes(exchange.disk->id);
  std::uint64_t disk_size = attributes ? attributes->size : 0, at = exchange.offset;
  std::uint64_t length = at < disk_size ? std::min(exchange.argument, disk_size - at) : 0;
  if (length == 0) return void(fuse_reply_buf(answering(exchange), nullptr, 0));
  exchange.op = IoOp::read;
  exchange.length = length;
  exchange.data = {exchange.payload, length};
  exchange.buffers = &exchange.data;
  exchange.buffer_count = 1;
  submit(exchange, *exchange.disk->disk, [](Exchange& self, int error) {
    fuse_req_t waiting = answering(self);
    if (error != 0)
      fuse_reply_err(waiting, error);
    else
      fuse_reply_buf(waiting, reinterpret_cast<const char*>(self.payload), self.length);
  });
}

void read(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset,
          fuse_file_info* file) {
  Exchange& exchange = begin(request);
  exchange.disk = open_disk(file);
  exchange.offset = static_cast<std::uint64_t>(offset);
  exchange.argument = size;
  // A direct read is not clipped by the kernel, which may hold back a cached write
  // that has moved the end: that goes to the pool first.
  Session& session = session_of(request);
  bool direct = (file->flags & O_DIRECT) != 0;
  if (direct && session.cached_writers().contains(node)) {
    auto attributes = pool_of(request).attributes(node);
    if (attributes && exchange.offset + size > attributes->size) {
      return session.cached_writers().write_back(node, [&exchange](bool) {
        exchange.worker->loop().post([&exchange] { read_present(exchange); });
      });
    }
  }
  read_present(exchange);
}

void write(fuse_req_t request, fuse_ino_t, const char* data, std::size_t size, off_t offset,
           fuse_file_info* file) {
  Exchange& exchange = begin(request);
  exchange.op = IoOp::write;
  exchange.offset = static_cast<std::uint64_t>(offset);
  exchange.length = size;
  exchange.data = {const_cast<char*>(data), size};
  exchange.buffers = &exchange.data;
  exchange.buffer_count = 1;
  submit(exchange, *open_disk(file)->disk, [](Exchange& self, int error) {
    fuse_req_t waiting = answering(self);
    if (error != 0)
      fuse_reply_err(waiting, error);
    else
      fuse_reply_write(waiting, self.length);
  });
}

// --- attributes: only a change of size takes time ---

pool::AttributeChanges changes_of(const struct stat& s, int which, bool is_disk) {
  auto ns = [](const timespec& t) { return t.tv_sec * std::int64_t{1'000'000'000} + t.tv_nsec; };
  pool::AttributeChanges changes;
  if ((which & FUSE_SET_ATTR_MODE) != 0) changes.mode = s.st_mode & (is_disk ? disk_mode_mask : 07777);
  if ((which & FUSE_SET_ATTR_UID) != 0) changes.uid = s.st_uid;
  if ((which & FUSE_SET_ATTR_GID) != 0) changes.gid = s.st_gid;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if ((which & FUSE_SET_ATTR_ATIME) != 0) changes.access = ns(s.st_atim);
  if ((which & FUSE_SET_ATTR_MTIME) != 0) changes.modify = ns(s.st_mtim);
  if ((which & FUSE_SET_ATTR_ATIME_NOW) != 0) changes.access = ns(now);
  if ((which & FUSE_SET_ATTR_MTIME_NOW) != 0) changes.modify = ns(now);
  return changes;
}

void reply_attributes(fuse_req_t request, const Result<pool::Attributes>& attributes) {
  if (!attributes) return reply_error(request, attributes.error());
  struct stat s = stat_of(*attributes);
  fuse_reply_attr(request, &s, attribute_timeout);
}

// argument: the new size; disk: held for this.
void truncated(Exchange& exchange, int error) {
  OpenDisk* held = exchange.disk;
  fuse_req_t request = answering(exchange);
  pool::Pool& pool = pool_of(request);
  Result<> done;
  if (error == 0) done = pool.set_size(*held->disk, exchange.argument);
  auto attributes = pool.attributes(held->id);
  if (held->shrinks) session_of(request).disk_users().end_shrink(held->id);
  pool.release(held->disk);
  delete held;
  if (error != 0) return void(fuse_reply_err(request, error));
  if (!done) return reply_error(request, done.error());
  reply_attributes(request, attributes);
}

void setattr(fuse_req_t request, fuse_ino_t node, struct stat* attr, int which, fuse_file_info*) {
  pool::Pool& pool = pool_of(request);
  int others = which & ~FUSE_SET_ATTR_SIZE;
  auto attributes = pool.attributes(node);
  bool is_disk = attributes && attributes->kind == pool::NodeKind::disk;
  if (attributes && (others != 0 || which == 0))
    attributes = pool.set_attributes(node, changes_of(*attr, others, is_disk));
  if (attributes && (others & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0)
    session_of(request).node_changed(node);
  if (!attributes || (which & FUSE_SET_ATTR_SIZE) == 0)
    return reply_attributes(request, attributes);
  if (session_of(request).options().read_only) return void(fuse_reply_err(request, EROFS));
  auto disk = pool.hold(node);
  if (!disk) return reply_error(request, disk.error());
  const bool shrinks = static_cast<std::uint64_t>(attr->st_size) < attributes->size;
  if (shrinks && !session_of(request).disk_users().begin_shrink(node)) {
    pool.release(*disk);
    return void(fuse_reply_err(request, EBUSY));
  }
  Exchange& exchange = begin(request);
  exchange.disk = new OpenDisk{node, *disk};
  exchange.disk->shrinks = shrinks;
  exchange.argument = static_cast<std::uint64_t>(attr->st_size);
  if (!shrinks) return truncated(exchange, 0);
  exchange.op = IoOp::discard;
  exchange.offset = exchange.argument;
  exchange.length = attributes->size - exchange.argument;
  submit(exchange, **disk, truncated);
}

void fallocate(fuse_req_t request, fuse_ino_t node, int mode, off_t offset, off_t length,
               fuse_file_info* file) {
  constexpr int keep = FALLOC_FL_KEEP_SIZE;
  IoOp op;
  switch (mode & ~keep) {
    case 0:
      op = IoOp::allocate;
      break;
    case FALLOC_FL_PUNCH_HOLE:
      op = IoOp::discard;
      break;
    case FALLOC_FL_ZERO_RANGE:
      op = IoOp::zero;
      break;
    default:
      log().info("fallocate mode {:#x} (collapse, insert, unshare) is not offered", mode);
      return void(fuse_reply_err(request, EOPNOTSUPP));
  }
  auto attributes = pool_of(request).attributes(node);
  if (!attributes) return reply_error(request, attributes.error());
  Exchange& exchange = begin(request);
  exchange.op = op;
  exchange.offset = static_cast<std::uint64_t>(offset);
  exchange.length = static_cast<std::uint64_t>(length);
  // What ends behind the file's end: extends it, or stays below it.
  std::uint64_t end = exchange.offset + exchange.length;
  bool extends = (mode & keep) == 0 && op != IoOp::discard && end > attributes->size;
  exchange.argument = extends ? end : 0;
  exchange.disk = open_disk(file);
  submit(exchange, *exchange.disk->disk, [](Exchange& self, int error) {
    fuse_req_t waiting = answering(self);
    if (error == 0 && self.argument != 0) {
      auto grown = pool_of(waiting).set_size(*self.disk->disk, self.argument);
      if (!grown) error = grown.error().errno_value;
    }
    fuse_reply_err(waiting, error);
  });
}

void fsync(fuse_req_t request, fuse_ino_t node, int, fuse_file_info* file) {
  Exchange& exchange = begin(request);
  exchange.op = IoOp::flush;
  exchange.offset = exchange.length = 0;
  exchange.argument = node;
  submit(exchange, *open_disk(file)->disk, [](Exchange& self, int error) {
    session_of(self.request).forget_attributes(self.argument);
    answer(self, error);
  });
}

// Called at each close: the kernel has sent what it held back; nothing is promised.
void flush(fuse_req_t request, fuse_ino_t, fuse_file_info*) { fuse_reply_err(request, 0); }

void fsyncdir(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  Exchange& exchange = begin(request);
  pool_of(request).commit_async([&exchange](int error) {
    exchange.worker->loop().post([&exchange, error] { answer(exchange, error); });
  });
}

}  // namespace

void add_data_operations(fuse_lowlevel_ops& ops) {
  ops.read = read;
  ops.write = write;
  ops.setattr = setattr;
  ops.fallocate = fallocate;
  ops.fsync = fsync;
  ops.flush = flush;
  ops.fsyncdir = fsyncdir;
}

}  // namespace tidepool::elasticfs
