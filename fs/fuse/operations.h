// The FUSE operations, on a pool. The only files that know libfuse are these and
// session.cpp.
//
// Names and attributes are answered at once from the pool's memory; data moves
// asynchronously: the Exchange of the request is the IoRequest to the pool.
#pragma once

#ifndef FUSE_USE_VERSION
#define FUSE_USE_VERSION 314
#endif
#include <fuse_lowlevel.h>

#include "fs/fuse/session.h"
#include "fs/fuse/transport.h"

namespace tidepool::elasticfs {

fuse_lowlevel_ops make_operations();
void add_name_operations(fuse_lowlevel_ops& ops);   // operations_names.cpp
void add_data_operations(fuse_lowlevel_ops& ops);   // operations_data.cpp
void add_space_operations(fuse_lowlevel_ops& ops);  // operations_space.cpp

inline Session& session_of(fuse_req_t request) {
  return *static_cast<Session*>(fuse_req_userdata(request));
}
inline pool::Pool& pool_of(fuse_req_t request) { return session_of(request).pool(); }
inline OpenDisk* open_disk(const fuse_file_info* file) {
  return reinterpret_cast<OpenDisk*>(file->fh);
}
inline void reply_error(fuse_req_t request, const Error& error) {
  fuse_reply_err(request, error.errno_value);
}

struct stat stat_of(const pool::Attributes& attributes);
// Names and attributes change through the kernel only, so it may keep them. Not
// quite: a disk's space changes with the writes that it sends later. It asks again
// after a close, a direct write or an fsync (Session::forget_attributes). Without
// this second, each buffered write would ask for size and mode first.
inline constexpr double entry_timeout = 60, attribute_timeout = 1;  // seconds

// Disks are no programs: their set-user-id and set-group-id bits are dropped, so that the
// kernel need not ask before each write whether to clear them.
inline constexpr mode_t disk_mode_mask = 01777;

// Ends an asynchronous operation: makes its reply the exchange's.
inline fuse_req_t answering(Exchange& exchange) {
  Exchange::current = &exchange;
  return exchange.request;
}
// Sends the exchange to the pool as what its IoRequest part says; `then` answers.
void submit(Exchange& exchange, pool::Disk& disk, void (*then)(Exchange& self, int error));

}  // namespace tidepool::elasticfs
