#include "fs/tools/create_pool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <limits>

#include "base/scope_guard.h"
#include "base/size_text.h"
#include "base/unique_fd.h"
#include "blockdev/sync_channel.h"
#include "fs/control/pool_identity.h"
#include "fs/control/pool_json.h"
#include "fs/pool/superblock.h"

namespace tidepool::tools {
namespace {

constexpr std::size_t signature_bytes = 1024 * 1024;  // where file systems have their magic

// Sees to it that there is a file. `made`: by us, so ours to remove on failure.
Result<struct stat> prepare_file(const CreateRequest& request, bool& made) {
  const auto describe = [&] { return fmt::format("pool {}: cannot create", request.path); };
  if (request.size != 0) {
    const UniqueFd fd(
        ::open(request.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600));
    made = static_cast<bool>(fd);
    if (!fd && errno != EEXIST) return fail_errno(errno, describe());
  }
  struct stat status {};
  if (::stat(request.path.c_str(), &status) != 0) {
    if (errno == ENOENT)
      return fail(ErrorKind::invalid_argument, "pool {}: a new file needs --size", request.path);
    return fail_errno(errno, describe());
  }
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
    return fail(ErrorKind::invalid_argument, "pool {}: neither a file nor a block device",
                request.path);
  if (S_ISREG(status.st_mode) && request.size == 0)
    return fail(ErrorKind::invalid_argument, "pool {}: a file needs --size", request.path);
  return status;
}

Result<> refuse_foreign_data(const CreateRequest& request, blockdev::FileStore& store) {
  const std::uint64_t size = store.geometry().size;
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(size, signature_bytes));
  if (length == 0) return {};
  auto channel = blockdev::SyncChannel::open(store);
  if (!channel) return std::unexpected(channel.error());
  blockdev::AlignedBuffer head(length);
  if (auto read = (*channel)->read(0, head.span()); !read) return read;
  const auto span = head.span();
  if (std::all_of(span.begin(), span.end(), [](std::byte b) { return b == std::byte{0}; }))
    return {};
  return fail(ErrorKind::exists, "pool {}: it holds other data already; --force overwrites it",
              request.path);
}

std::string host_space_note(const CreateRequest& request, const struct stat& file) {
  struct statvfs host {};
  if (!S_ISREG(file.st_mode) || ::statvfs(request.path.c_str(), &host) != 0) return {};
  const std::uint64_t free = std::uint64_t{host.f_bavail} * host.f_frsize;
  if (free >= request.size) return {};
  return fmt::format("its file system has only {} free: more than that cannot be stored in it",
                     format_size(free));
}

}  // namespace

Result<nlohmann::json> create_pool(const CreateRequest& request, std::string& note) {
  if (request.chunk_bytes && *request.chunk_bytes > std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorKind::invalid_argument, "pool {}: a chunk of {} is too large", request.path,
                format_size(*request.chunk_bytes));
  pool::CreateOptions options;
  options.size = request.size;
  if (request.chunk_bytes) options.chunk_bytes = static_cast<std::uint32_t>(*request.chunk_bytes);

  bool made = false;
  ScopeGuard remove_made([&] {
    if (made) ::unlink(request.path.c_str());
  });
  const auto status = prepare_file(request, made);
  if (!status) return std::unexpected(status.error());

  const auto store = blockdev::FileStore::open(request.path, {});
  if (!store) return std::unexpected(store.error());
  const auto identity = control::identify_pool(**store);
  if (!identity) return std::unexpected(identity.error());
  const bool refused = identity->has_superblock && !request.force;  // by Pool::create, below
  if (!request.force && !refused)
    if (auto empty = refuse_foreign_data(request, **store); !empty)
      return std::unexpected(empty.error());
  if (S_ISREG(status->st_mode) && !refused) {
    // What cannot work must not cost the old content.
    if (auto layout = pool::lay_out(request.size, options.chunk_bytes); !layout)
      return std::unexpected(layout.error());
    if (auto resized = (*store)->set_size(request.size); !resized)
      return std::unexpected(resized.error());
  }
  if (auto created = pool::Pool::create(**store, options, request.force); !created)
    return std::unexpected(created.error());
  remove_made.dismiss();
  note = host_space_note(request, *status);

  const auto pool = pool::Pool::open(*store, {.read_only = true, .background = false});
  if (!pool) return std::unexpected(pool.error());
  std::error_code ignored;
  return control::info_json(**pool, **store,
                            {std::filesystem::canonical(request.path, ignored).string(), ""});
}

}  // namespace tidepool::tools
