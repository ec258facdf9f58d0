#include "blockdev/stores/nbd_library.h"

#include <dlfcn.h>

namespace tidepool::blockdev {

namespace {

constexpr const char* file = "libnbd.so.0";

Result<NbdLibrary> load() {
  void* const library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return fail(ErrorKind::not_found, "NBD exports need libnbd (Debian's package libnbd0): {}",
                ::dlerror());
  }
  NbdLibrary functions{};
  const char* missing = nullptr;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) missing = name;
  };
  find(functions.create, "nbd_create");
  find(functions.close, "nbd_close");
  find(functions.get_error, "nbd_get_error");
  find(functions.get_errno, "nbd_get_errno");
  find(functions.add_meta_context, "nbd_add_meta_context");
  find(functions.set_uri_allow_local_file, "nbd_set_uri_allow_local_file");
  find(functions.set_pread_initialize, "nbd_set_pread_initialize");
  find(functions.get_size, "nbd_get_size");
  find(functions.get_block_size, "nbd_get_block_size");
  find(functions.is_read_only, "nbd_is_read_only");
  find(functions.can_flush, "nbd_can_flush");
  find(functions.can_fua, "nbd_can_fua");
  find(functions.can_trim, "nbd_can_trim");
  find(functions.can_zero, "nbd_can_zero");
  find(functions.can_multi_conn, "nbd_can_multi_conn");
  find(functions.can_meta_context, "nbd_can_meta_context");
  find(functions.aio_connect_uri, "nbd_aio_connect_uri");
  find(functions.aio_is_ready, "nbd_aio_is_ready");
  find(functions.aio_is_dead, "nbd_aio_is_dead");
  find(functions.aio_is_closed, "nbd_aio_is_closed");
  find(functions.aio_disconnect, "nbd_aio_disconnect");
  find(functions.aio_get_fd, "nbd_aio_get_fd");
  find(functions.aio_get_direction, "nbd_aio_get_direction");
  find(functions.aio_notify_read, "nbd_aio_notify_read");
  find(functions.aio_notify_write, "nbd_aio_notify_write");
  find(functions.aio_pread, "nbd_aio_pread");
  find(functions.aio_pwrite, "nbd_aio_pwrite");
  find(functions.aio_flush, "nbd_aio_flush");
  find(functions.aio_zero, "nbd_aio_zero");
  find(functions.aio_block_status, "nbd_aio_block_status");
  if (missing == nullptr) return functions;
  ::dlclose(library);
  return fail(ErrorKind::not_found, "NBD exports need a newer libnbd: {} has no {}", file, missing);
}

}  // namespace

Result<const NbdLibrary*> nbd_library() {
  static const Result<NbdLibrary> loaded = load();
  if (!loaded) return std::unexpected(loaded.error());
  return &*loaded;
}

}  // namespace tidepool::blockdev
