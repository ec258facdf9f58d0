#include "blockdev/stores/nfs_directory.h"

#include <fcntl.h>
#include <nfsc/libnfs.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <utility>

#include "base/uuid.h"
#include "blockdev/stores/remote_link.h"

namespace tidepool::blockdev {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds tick{100};  // libnfs wants to be called so often
// Servers forget clients of version 4 that say nothing for a minute or so, and close connections.
constexpr std::chrono::seconds longest_rest{20};
constexpr int file_mode = 0600, directory_mode = 0700;

// One connection, for the calls of one operation after the other, one at a time.
class Mount {
 public:
  explicit Mount(const NfsPatience& patience) : patience_(patience) {}

  // An operation on what has this name, for messages.
  void begin(std::string name) {
    name_ = std::move(name);
    deadline_ = Clock::now() + patience_.most;
  }
  void rest() { resting_since_ = Clock::now(); }
  bool has_rested_too_long() const { return Clock::now() - resting_since_ > longest_rest; }

  Result<> open(const NfsLocation& where, const std::string& client) {
    nfs_.reset(nfs_init_context());
    if (!nfs_) return fail_errno(ENOMEM, fmt::format("cannot reach '{}'", name_));
    const auto option = [](const char* option, int value, int unset) {
      return value == unset ? std::string() : fmt::format("&{}={}", option, value);
    };
    // The only way to set ports.
    const std::string options =
        fmt::format("nfs:///?version={}{}{}{}{}", where.version,
                    option("nfsport", where.nfs_port, 0), option("mountport", where.mount_port, 0),
                    option("uid", where.uid, -1), option("gid", where.gid, -1));
    struct nfs_url* const url = nfs_parse_url_incomplete(nfs_.get(), options.c_str());
    if (url == nullptr) return failed("reach", EINVAL);
    nfs_destroy_url(url);
    nfs_set_autoreconnect(nfs_.get(), 0);
    nfs_set_dircache(nfs_.get(), 0);
    // Else two processes of the same number on two hosts are one client to a server.
    // libnfs forgets to free the name that it had: some 30 bytes.
    if (where.version == 4) nfs4_set_client_name(nfs_.get(), client.c_str());
    return run("reach", [&](nfs_cb answered, void* self) {
      return nfs_mount_async(nfs_.get(), where.server.c_str(), where.directory.c_str(), answered,
                             self);
    });
  }

  nfs_context* nfs() { return nfs_.get(); }
  void* data() const { return call_.data; }  // of the last call
  int count() const { return call_.status; }

  // `take` sees the answer's data as long as they are there.
  Result<> run(const char* what, const std::function<int(nfs_cb, void*)>& send,
               std::function<void(const char* data, std::size_t size)> take = nullptr) {
    call_ = {.take = std::move(take)};
    if (send(Call::answered, &call_) != 0) return failed(what, EIO);
    while (!call_.done) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now());
      if (left.count() <= 0) return failed(what, ETIMEDOUT);
      std::array<pollfd, 2> fds{};
      connect_soon(nfs_get_fd(nfs_.get()));
      fds[0] = {.fd = nfs_get_fd(nfs_.get()),
                .events = static_cast<short>(nfs_which_events(nfs_.get())),
                .revents = 0};
      fds[1] = {.fd = patience_.stop, .events = POLLIN, .revents = 0};
      if (::poll(fds.data(), fds.size(), static_cast<int>(std::min(left, tick).count())) < 0)
        fds[0].revents = 0;
      if (fds[1].revents != 0)
        return fail(ErrorKind::busy, "cannot wait for '{}': it is being closed", name_);
      if (nfs_service(nfs_.get(), fds[0].revents) < 0 && !call_.done) return failed(what, EIO);
    }
    if (call_.status < 0) return failed(what, -call_.status);
    return {};
  }

  std::unexpected<Error> failed(const char* what, int error) {
    if (error == EFAULT) error = EIO;  // libnfs's number for what an RPC suffers
    const bool says = !call_.text.empty() && error != ENOENT && error != EEXIST;
    return fail_errno(
        error, fmt::format("cannot {} '{}'{}", what, name_, says ? " (" + call_.text + ")" : ""));
  }

 private:
  struct Call {
    bool done = false;
    int status = 0;  // a negative errno
    void* data = nullptr;
    std::string text;
    std::function<void(const char*, std::size_t)> take;

    static void answered(int status, nfs_context*, void* data, void* self) {
      auto& call = *static_cast<Call*>(self);
      call.done = true;
      call.status = status;
      call.data = status < 0 ? nullptr : data;
      if (status < 0 && data != nullptr) call.text = static_cast<const char*>(data);
      if (status > 0 && call.take)
        call.take(static_cast<const char*>(data), static_cast<std::size_t>(status));
    }
  };
  struct Destroy {
    void operator()(nfs_context* nfs) const { nfs_destroy_context(nfs); }
  };
  const NfsPatience patience_;
  std::string name_;
  Clock::time_point deadline_, resting_since_;
  Call call_;  // outlives the context, which answers it when it goes
  std::unique_ptr<nfs_context, Destroy> nfs_;
};

class NfsDirectory final : public Directory {
 public:
  NfsDirectory(const NfsLocation& where, const std::string& below, const NfsPatience& patience)
      : where_(where),
        patience_(patience),
        path_(below.empty() ? "" : "/" + below),
        name_(fmt::format("nfs://{}{}{}", where.server,
                          where.directory == "/" ? "" : where.directory, path_)),
        client_("tidepool " + to_text(new_uuid())) {}

  const std::string& name() const override { return name_; }

  Result<> make() override {
    return on_mount(name_, [&](Mount& mount) {
      auto made = mount.run("make", [&](nfs_cb answered, void* self) {
        return nfs_mkdir2_async(mount.nfs(), path_.c_str(), directory_mode, answered, self);
      });
      return !made && made.error().kind == ErrorKind::exists ? Result<>() : made;
    });
  }

  Result<std::vector<std::string>> list() override {
    return on_mount(name_, [&](Mount& mount) -> Result<std::vector<std::string>> {
      auto opened = mount.run("list", [&](nfs_cb answered, void* self) {
        return nfs_opendir_async(mount.nfs(), path_.empty() ? "/" : path_.c_str(), answered, self);
      });
      if (!opened) return std::unexpected(opened.error());
      auto* const directory = static_cast<nfsdir*>(mount.data());
      std::vector<std::string> names;
      while (const nfsdirent* const entry = nfs_readdir(mount.nfs(), directory)) {
        const std::string_view found = entry->name;
        if (found != "." && found != "..") names.emplace_back(found);
      }
      nfs_closedir(mount.nfs(), directory);
      return names;
    });
  }

  Result<std::vector<std::byte>> read(const std::string& file, std::size_t most) override {
    std::vector<std::byte> data;
    auto done = with_file(file, O_RDONLY, [&](Mount& mount, nfsfh* handle) {
      return mount.run(
          "read",
          [&](nfs_cb answered, void* self) {
            return nfs_pread_async(mount.nfs(), handle, 0, most, answered, self);
          },
          [&](const char* from, std::size_t size) {
            const auto* const bytes = reinterpret_cast<const std::byte*>(from);
            data.assign(bytes, bytes + std::min(size, most));
          });
    });
    if (!done) return std::unexpected(done.error());
    return data;
  }

  Result<> create(const std::string& file, std::span<const std::byte> data) override {
    return write_to(file, O_CREAT | O_EXCL, data);
  }

  Result<> publish(const std::string& file, std::span<const std::byte> data) override {
    const std::string fresh = file + "." + to_text(new_uuid()) + ".new";
    if (auto written = write_to(fresh, O_CREAT | O_EXCL, data); !written) return written;
    auto linked = on_mount(name_ + "/" + file, [&](Mount& mount) {
      return mount.run("make", [&](nfs_cb answered, void* self) {
        return nfs_link_async(mount.nfs(), path_of(fresh).c_str(), path_of(file).c_str(), answered,
                              self);
      });
    });
    // Nobody reads what stays there when this fails.
    (void)remove(fresh);
    return linked;
  }

  Result<> overwrite(const std::string& file, std::span<const std::byte> data) override {
    return write_to(file, 0, data);
  }

  Result<> replace(const std::string& file, std::span<const std::byte> data) override {
    const std::string fresh = file + ".new";
    if (auto written = write_to(fresh, O_CREAT | O_TRUNC, data); !written) return written;
    return on_mount(name_ + "/" + file, [&](Mount& mount) {
      return mount.run("replace", [&](nfs_cb answered, void* self) {
        return nfs_rename_async(mount.nfs(), path_of(fresh).c_str(), path_of(file).c_str(),
                                answered, self);
      });
    });
  }

  Result<> remove(const std::string& file) override {
    return on_mount(name_ + "/" + file, [&](Mount& mount) {
      return mount.run("remove", [&](nfs_cb answered, void* self) {
        return nfs_unlink_async(mount.nfs(), path_of(file).c_str(), answered, self);
      });
    });
  }

 private:
  std::string path_of(const std::string& file) const { return path_ + "/" + file; }

  // One operation: `work` on a connection, which is there for the next one only if it is sound.
  template <class Work>
  auto on_mount(const std::string& name, Work&& work) -> decltype(work(std::declval<Mount&>())) {
    if (mount_ && mount_->has_rested_too_long()) mount_.reset();
    const bool fresh = !mount_;
    if (fresh) mount_ = std::make_unique<Mount>(patience_);
    mount_->begin(name);
    if (fresh) {
      if (auto opened = mount_->open(where_, client_); !opened) {
        mount_.reset();
        return std::unexpected(opened.error());
      }
    }
    auto done = work(*mount_);
    const bool sound =
        done || done.error().kind == ErrorKind::exists || done.error().kind == ErrorKind::not_found;
    if (!sound || !patience_.keep)
      mount_.reset();
    else
      mount_->rest();
    return done;
  }

  Result<> with_file(const std::string& file, int flags,
                     const std::function<Result<>(Mount&, nfsfh*)>& work) {
    return on_mount(name_ + "/" + file, [&](Mount& mount) -> Result<> {
      auto opened = mount.run("open", [&](nfs_cb answered, void* self) {
        return nfs_open2_async(mount.nfs(), path_of(file).c_str(), flags, file_mode, answered,
                               self);
      });
      if (!opened) return opened;
      auto* const handle = static_cast<nfsfh*>(mount.data());
      auto done = work(mount, handle);
      auto closed = mount.run("close", [&](nfs_cb answered, void* self) {
        return nfs_close_async(mount.nfs(), handle, answered, self);
      });
      return done ? closed : done;
    });
  }

  Result<> write_to(const std::string& file, int flags, std::span<const std::byte> data) {
    // O_SYNC: what is answered is stable, without a verifier that nobody would look at.
    return with_file(file, O_WRONLY | O_SYNC | flags, [&](Mount& mount, nfsfh* handle) -> Result<> {
      for (std::size_t at = 0; at < data.size();) {
        auto written = mount.run("write", [&](nfs_cb answered, void* self) {
          return nfs_pwrite_async(mount.nfs(), handle, at, data.size() - at, &data[at], answered,
                                  self);
        });
        if (!written) return written;
        if (mount.count() == 0) return mount.failed("write", EIO);
        at += static_cast<std::size_t>(mount.count());
      }
      return {};
    });
  }

  const NfsLocation where_;
  const NfsPatience patience_;
  const std::string path_, name_, client_;
  std::unique_ptr<Mount> mount_;  // kept from the last operation
};

}  // namespace

std::unique_ptr<Directory> nfs_directory(const NfsLocation& where, const std::string& below,
                                         const NfsPatience& patience) {
  return std::make_unique<NfsDirectory>(where, below, patience);
}

}  // namespace tidepool::blockdev
