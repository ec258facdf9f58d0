// libnbd, loaded when the first NBD export is opened. It brings GnuTLS, libxml2, ICU and more,
// some MiB in each process: who serves or runs machines from other disks shall not carry them.
#pragma once

#include <libnbd.h>

#include "base/result.h"

namespace tidepool::blockdev {

// Its functions, by their names without nbd_ in front.
struct NbdLibrary {
  decltype(&::nbd_create) create;
  decltype(&::nbd_close) close;
  decltype(&::nbd_get_error) get_error;
  decltype(&::nbd_get_errno) get_errno;
  decltype(&::nbd_add_meta_context) add_meta_context;
  decltype(&::nbd_set_uri_allow_local_file) set_uri_allow_local_file;
  decltype(&::nbd_set_pread_initialize) set_pread_initialize;
  decltype(&::nbd_get_size) get_size;
  decltype(&::nbd_get_block_size) get_block_size;
  decltype(&::nbd_is_read_only) is_read_only;
  decltype(&::nbd_can_flush) can_flush;
  decltype(&::nbd_can_fua) can_fua;
  decltype(&::nbd_can_trim) can_trim;
  decltype(&::nbd_can_zero) can_zero;
  decltype(&::nbd_can_multi_conn) can_multi_conn;
  decltype(&::nbd_can_meta_context) can_meta_context;
  decltype(&::nbd_aio_connect_uri) aio_connect_uri;
  decltype(&::nbd_aio_is_ready) aio_is_ready;
  decltype(&::nbd_aio_is_dead) aio_is_dead;
  decltype(&::nbd_aio_is_closed) aio_is_closed;
  decltype(&::nbd_aio_disconnect) aio_disconnect;
  decltype(&::nbd_aio_get_fd) aio_get_fd;
  decltype(&::nbd_aio_get_direction) aio_get_direction;
  decltype(&::nbd_aio_notify_read) aio_notify_read;
  decltype(&::nbd_aio_notify_write) aio_notify_write;
  decltype(&::nbd_aio_pread) aio_pread;
  decltype(&::nbd_aio_pwrite) aio_pwrite;
  decltype(&::nbd_aio_flush) aio_flush;
  decltype(&::nbd_aio_zero) aio_zero;
  decltype(&::nbd_aio_block_status) aio_block_status;
};

// Any thread. not_found: it is not installed, or lacks one of these. What it gives lives as
// long as the program.
Result<const NbdLibrary*> nbd_library();

}  // namespace tidepool::blockdev
