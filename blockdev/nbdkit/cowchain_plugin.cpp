// nbdkit-cowchain-plugin.so: a COW chain as an NBD export.
//
// All connections share one chain, so a flush on any of them covers the writes of
// all (multi-conn). nbdkit calls from many threads at once: each call borrows a
// channel from the handle-wide pool and gives it back. No exception leaves here.
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/file_limit.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/control/chain_service.h"
#include "blockdev/sync_channel.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace tidepool::blockdev::chain {
namespace {

// What is served: from after_fork() until cleanup().
struct Served {
  std::string path;
  bool verify = true;
  std::shared_ptr<Chain> chain;
  std::unique_ptr<ChainService> control;
  std::mutex mutex;  // guards idle
  std::vector<std::unique_ptr<SyncChannel>> idle;
};
Served served;

int report(const Error& error) {
  nbdkit_error("%s", error.message.c_str());
  nbdkit_set_error(error.errno_value);
  return -1;
}

// Runs `work` on a channel that is this call's alone.
template <class Work>
int with_channel(Work&& work) {
  try {
    std::unique_ptr<SyncChannel> channel;
    {
      const std::lock_guard lock(served.mutex);
      if (!served.idle.empty()) {
        channel = std::move(served.idle.back());
        served.idle.pop_back();
      }
    }
    if (!channel) {
      auto opened = SyncChannel::open(*served.chain);
      if (!opened) return report(opened.error());
      channel = std::move(*opened);
    }
    Result<> done = work(*channel);
    {
      const std::lock_guard lock(served.mutex);
      served.idle.push_back(std::move(channel));
    }
    return done ? 0 : report(done.error());
  } catch (const std::exception& exception) {
    nbdkit_error("%s", exception.what());
    nbdkit_set_error(ENOMEM);
    return -1;
  }
}

int config(const char* key, const char* value) {
  const std::string_view name = key;
  if (name == "top") {
    char* const path = nbdkit_realpath(value);
    if (path == nullptr) return -1;
    served.path = path;
    free(path);
    return 0;
  }
  if (name == "verify") {
    const int on = nbdkit_parse_bool(value);
    if (on == -1) return -1;
    served.verify = on == 1;
    return 0;
  }
  nbdkit_error("unknown parameter '%s': the cowchain plugin has top=FILE and verify=BOOL", key);
  return -1;
}

int config_complete() {
  if (!served.path.empty()) return 0;
  nbdkit_error("which chain? name its top layer: nbdkit cowchain TOP");
  return -1;
}

Result<std::shared_ptr<Chain>> open_served(bool read_only) {
  auto header = read_layer_header(local_files(), served.path);
  if (!header) return std::unexpected(header.error());
  return open_chain(local_files(), served.path,
                    {.read_only = read_only || header->state == LayerState::sealed,
                     .verify = served.verify});
}

// A trial before nbdkit goes to the background or runs the command that waits for
// it: only here is an error seen, and ends both.
int get_ready() {
  raise_file_limit();
  if (auto r = finish_checkpoint(local_files(), served.path); !r) return report(r.error());
  auto chain = open_served(true);
  return chain ? 0 : report(chain.error());
}

// Threads and rings would not survive the fork: only now.
int after_fork() {
  auto chain = open_served(false);
  if (!chain) return report(chain.error());
  served.chain = std::move(*chain);
  // What is sealed can be served by several at once, and there is nothing to ask them for.
  if (served.chain->geometry().read_only) return 0;
  auto control = ChainService::start(*served.chain, served.path);
  if (!control) return report(control.error());
  served.control = std::move(*control);
  return 0;
}

void cleanup() {
  served.control.reset();
  served.idle.clear();
  served.chain.reset();
}

void* open(int) { return &served; }
std::int64_t get_size(void*) { return static_cast<std::int64_t>(served.chain->geometry().size); }
int block_size(void*, std::uint32_t* least, std::uint32_t* preferred, std::uint32_t* most) {
  *least = 1;
  *preferred = block_bytes;
  *most = 32U << 20;
  return 0;
}
int can_write(void*) { return served.chain->geometry().read_only ? 0 : 1; }
int yes(void*) { return 1; }
int can_fua(void*) { return NBDKIT_FUA_NATIVE; }
int can_cache(void*) { return NBDKIT_CACHE_EMULATE; }

int pread(void*, void* data, std::uint32_t count, std::uint64_t offset, std::uint32_t) {
  return with_channel([&](SyncChannel& channel) {
    return channel.read(offset, {static_cast<std::byte*>(data), count});
  });
}

Result<> settle(SyncChannel& channel, Result<> done, std::uint32_t flags) {
  if (done && (flags & NBDKIT_FLAG_FUA) != 0) return channel.flush();
  return done;
}

int pwrite(void*, const void* data, std::uint32_t count, std::uint64_t offset,
           std::uint32_t flags) {
  return with_channel([&](SyncChannel& channel) {
    return settle(channel, channel.write(offset, {static_cast<const std::byte*>(data), count}),
                  flags);
  });
}

int flush(void*, std::uint32_t) {
  return with_channel([](SyncChannel& channel) { return channel.flush(); });
}

int trim(void*, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
  return with_channel([&](SyncChannel& channel) {
    return settle(channel, channel.discard(offset, count), flags);
  });
}

int zero(void*, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
  return with_channel([&](SyncChannel& channel) {
    return settle(channel, channel.zero(offset, count), flags);
  });
}

int extents(void*, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
            nbdkit_extents* out) {
  try {
    bool failed = false;
    auto located = served.chain->locate(offset, count, [&](const Range& range) {
      const std::uint32_t type =
          range.kind == RangeKind::data ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
      failed = nbdkit_add_extent(out, range.offset, range.length, type) == -1;
      return !failed && (flags & NBDKIT_FLAG_REQ_ONE) == 0;
    });
    if (!located) return report(located.error());
    return failed ? -1 : 0;
  } catch (const std::exception& exception) {
    nbdkit_error("%s", exception.what());
    nbdkit_set_error(ENOMEM);
    return -1;
  }
}

nbdkit_plugin make_plugin() {
  nbdkit_plugin p{};
  p._struct_size = sizeof p;
  p._api_version = NBDKIT_API_VERSION;
  p._thread_model = THREAD_MODEL;
  p.name = "cowchain";
  p.longname = "Tidepool copy-on-write chain";
  p.version = TIDEPOOL_VERSION;
  p.description = "Serves a chain of copy-on-write layers as one disk";
  p.config = config;
  p.config_complete = config_complete;
  p.config_help = "[top=]FILE      (required) The chain's top layer.\n"
                   "verify=BOOL     Check each block's hash when it is read (default true).";
  p.open = open;
  p.get_size = get_size;
  p.can_write = can_write;
  p.can_flush = yes;
  p.can_trim = yes;
  p.magic_config_key = "top";
  p.can_multi_conn = yes;
  p.can_extents = yes;
  p.can_zero = yes;
  p.can_fua = can_fua;
  p.pread = pread;
  p.pwrite = pwrite;
  p.flush = flush;
  p.trim = trim;
  p.zero = zero;
  p.extents = extents;
  p.can_cache = can_cache;
  p.can_fast_zero = yes;
  p.get_ready = get_ready;
  p.after_fork = after_fork;
  p.cleanup = cleanup;
  p.block_size = block_size;
  return p;
}

}  // namespace
}  // namespace tidepool::blockdev::chain

extern "C" NBDKIT_DLL_PUBLIC nbdkit_plugin* plugin_init();

nbdkit_plugin* plugin_init() {
  static nbdkit_plugin plugin = tidepool::blockdev::chain::make_plugin();
  return &plugin;
}
