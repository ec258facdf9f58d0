#include "blockdev/attach/device_use.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "blockdev/attach/nbd_control.h"

namespace tidepool::blockdev::attach {

namespace {

namespace fs = std::filesystem;

struct Names {
  std::set<std::string> paths;    // /dev/nbd0, /dev/nbd0p1
  std::set<std::string> numbers;  // "43:0"
};

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Calls `each` with every entry's path; a directory that is not there has none.
template <class Each>
void for_entries(const fs::path& directory, Each&& each) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    each(entry->path());
}

Names names_of(std::uint32_t index) {
  const std::string disk = "nbd" + std::to_string(index);
  const fs::path sysfs = "/sys/block/" + disk;
  Names names{.paths = {"/dev/" + disk}, .numbers = {first_line(sysfs / "dev")}};
  for_entries(sysfs, [&](const fs::path& path) {
    const std::string name = path.filename();
    if (!name.starts_with(disk + "p") || !fs::exists(path / "dev")) return;
    names.paths.insert("/dev/" + name);
    names.numbers.insert(first_line(path / "dev"));
  });
  return names;
}

// proc_pid_mountinfo(5): the third field is the device's number, the fifth the mount
// point; the source follows a single "-" and the type.
void find_mounts(const Names& names, std::vector<std::string>& users) {
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string skipped, number, root, where, field, type, source;
    fields >> skipped >> skipped >> number >> root >> where;
    while (fields >> field && field != "-") continue;
    fields >> type >> source;
    if (names.numbers.contains(number) || names.paths.contains(source))
      users.push_back("is mounted on " + where);
  }
}

void find_swaps(const Names& names, std::vector<std::string>& users) {
  std::ifstream file("/proc/swaps");
  for (std::string line; std::getline(file, line);) {
    if (names.paths.contains(line.substr(0, line.find_first_of(" \t"))))
      users.emplace_back("is used as swap space");
  }
}

void find_holders(const Names& names, std::vector<std::string>& users) {
  for (const std::string& path : names.paths) {
    for_entries("/sys/class/block/" + path.substr(5) + "/holders", [&](const fs::path& holder) {
      users.push_back("is part of " + holder.filename().native());
    });
  }
}

// By the link's text, as asking a strange file itself may block.
void find_processes(const Names& names, std::vector<std::string>& users) {
  for_entries("/proc", [&](const fs::path& process) {
    const std::string name = process.filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc() ||
        pid == ::getpid())
      return;
    bool found = false;
    for_entries(process / "fd", [&](const fs::path& fd) {
      std::error_code ignored;
      found = found || names.paths.contains(fs::read_symlink(fd, ignored));
    });
    if (found) {
      users.push_back(
          fmt::format("is open in process {} ({})", pid, first_line(process / "comm")));
    }
  });
}

}  // namespace

std::vector<std::string> users_of(std::uint32_t index) {
  const Names names = names_of(index);
  std::vector<std::string> users;
  find_mounts(names, users);
  find_swaps(names, users);
  find_holders(names, users);
  find_processes(names, users);
  return users;
}

Result<UniqueFd> hold_device(std::uint32_t index) {
  const std::string device = device_path(index);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (;;) {
    UniqueFd held(::open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
    const int code = held ? 0 : errno;
    if (!held && code != EBUSY) return fail_errno(code, "cannot open " + device);
    const std::vector<std::string> users = users_of(index);
    if (held && users.empty()) return held;
    if (std::chrono::steady_clock::now() > end) {
      return fail(ErrorKind::busy, "{} {}: end that first", device,
                  users.empty() ? "is in use by the kernel" : fmt::format("{}", fmt::join(users, ", ")));
    }
    held.reset();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Result<> flush_device(std::uint32_t index, const UniqueFd& held) {
  if (::fsync(held.get()) != 0 || ::ioctl(held.get(), BLKFLSBUF, 0) != 0)
    return fail_errno(errno, "cannot flush " + device_path(index));
  return {};
}

}  // namespace tidepool::blockdev::attach
