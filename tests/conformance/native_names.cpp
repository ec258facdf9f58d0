// The calls on names, modes, owners and directories.
#include <dirent.h>
#include <linux/fs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include <algorithm>
#include <set>

#include "tests/conformance/native_side.h"

namespace judge {
namespace {

constexpr uid_t stranger = 12345;

void create_modes(Side& side) {
  const mode_t before = umask(022);
  for (const mode_t mask : {0, 022, 077, 0777}) {
    umask(mask);
    for (const mode_t mode : {0u, 0600u, 0644u, 0666u, 0777u}) {
      const std::string name = "m" + std::to_string(mask) + "-" + std::to_string(mode);
      side.open("create", name, O_CREAT | O_RDWR, mode);
      side.status("status of " + name, name);
    }
  }
  umask(before);
}

void open_flags(Side& side) {
  side.open("open missing", "missing", O_RDONLY);
  side.open("open missing for writing", "missing", O_WRONLY);
  side.open("create exclusively", "x", O_CREAT | O_EXCL | O_RDWR);
  side.open("create exclusively again", "x", O_CREAT | O_EXCL | O_RDWR);
  side.open("open file as directory", "x", O_RDONLY | O_DIRECTORY);
  side.open("open directory for writing", ".", O_RDWR);
  side.open("open directory", ".", O_RDONLY | O_DIRECTORY);
  side.open("name below a file", "x/y", O_CREAT | O_RDWR);
  side.open("trailing slash", "new/", O_CREAT | O_RDWR);
  side.open("path only", "x", O_PATH);
}

void truncate_on_open(Side& side) {
  side.make_file("t", 10000);
  side.open("truncating open", "t", O_RDWR | O_TRUNC);
  side.status("after", "t");
  side.make_file("t", 10000);
  side.open("truncating open, read only", "t", O_RDONLY | O_TRUNC);
  side.status("after read only", "t");
}

void append(Side& side) {
  side.make_file("a", 100);
  Fd file = side.open("open for append", "a", O_RDWR | O_APPEND);
  side.call("write", write(file.get(), "tail", 4));
  Fd other = side.open("second", "a", O_RDWR | O_APPEND);
  side.call("write by second", write(other.get(), "more", 4));
  side.call("write by first", write(file.get(), "last", 4));
  side.call("pwrite goes to the end too", pwrite(file.get(), "zero", 4, 0));
  side.content("content", file.get());
  side.status("size", file.get());
}

void unlink_open(Side& side) {
  Fd file = side.make_file("gone", 8192);
  side.call("unlink", unlink(side.path("gone").c_str()));
  side.call("unlink again", unlink(side.path("gone").c_str()));
  side.status("name", "gone");
  side.status("through the descriptor", file.get());
  side.call("write after", pwrite(file.get(), "still here", 10, 20000));
  side.content("content", file.get());
  side.call("truncate after", ftruncate(file.get(), 5));
  side.content("content, shorter", file.get());
  side.call("fsync after", fsync(file.get()));
  Fd fresh = side.make_file("gone", 10);
  side.content("a new file of the name", fresh.get());
  side.content("the old one", file.get());
  file.reset();
  Fd directory(::open(side.directory().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  side.call("syncfs", syncfs(directory.get()));
}

void rename_over(Side& side) {
  side.make_file("from", 1000);
  Fd old = side.make_file("to", 2000);
  side.call("rename", rename(side.path("from").c_str(), side.path("to").c_str()));
  side.status("from", "from");
  side.status("to", "to");
  side.status("replaced, still open", old.get());
  side.content("its content", old.get());
  side.call("rename missing", rename(side.path("from").c_str(), side.path("to").c_str()));
  side.call("onto itself", rename(side.path("to").c_str(), side.path("to").c_str()));
  side.make_file("other", 10);
  side.call("no replace", syscall(SYS_renameat2, AT_FDCWD, side.path("other").c_str(), AT_FDCWD,
                                  side.path("to").c_str(), RENAME_NOREPLACE));
  side.call("no replace, free name",
            syscall(SYS_renameat2, AT_FDCWD, side.path("other").c_str(), AT_FDCWD,
                    side.path("free").c_str(), RENAME_NOREPLACE));
  side.status("moved", "free");
  side.call("exchange", syscall(SYS_renameat2, AT_FDCWD, side.path("free").c_str(), AT_FDCWD,
                                side.path("to").c_str(), RENAME_EXCHANGE));
  side.call("to a long name",
            rename(side.path("free").c_str(), side.path(std::string(256, 'n')).c_str()));
}

void directories(Side& side) {
  side.make_file("f", 10);
  side.call("mkdir over a file", mkdir(side.path("f").c_str(), 0755));
  side.call("rmdir of a file", rmdir(side.path("f").c_str()));
  side.call("rmdir nonempty", rmdir(side.directory().c_str()));
  side.call("mkdir existing", mkdir(side.directory().c_str(), 0755));
  side.call("unlink a directory", unlink(side.directory().c_str()));
  side.call("rmdir missing", rmdir(side.path("missing").c_str()));
  side.call("nested mkdir", mkdir(side.path("d").c_str(), 0755));
}

void special_nodes(Side& side) {
  side.make_file("f", 10);
  side.call("symlink", symlink("f", side.path("s").c_str()));
  side.call("link", link(side.path("f").c_str(), side.path("l").c_str()));
  side.call("mkfifo", mkfifo(side.path("p").c_str(), 0600));
  side.call("mknod device", mknod(side.path("n").c_str(), S_IFCHR | 0600, 0x103));
  side.call("mknod file", mknod(side.path("r").c_str(), S_IFREG | 0640, 0));
  side.status("made by mknod", "r");
  char target[8];
  side.call("readlink of a file", readlink(side.path("f").c_str(), target, sizeof target));
}

void long_names(Side& side) {
  for (const std::size_t length : {1u, 200u, 254u, 255u, 256u, 1000u}) {
    const std::string name(length, 'n');
    const std::string what = std::to_string(length) + " bytes";
    side.open("create " + what, name, O_CREAT | O_RDWR);
    side.status("status " + what, name);
    side.call("unlink " + what, unlink(side.path(name).c_str()));
  }
}

void special_names(Side& side) {
  const std::vector<std::string> names = {" ",   "a b",        "tab\t",    "line\n", "\xff\xfe\x80",
                                          "ä€🐟", "quote\"'\\", "-dash",    "..dots", "%s%n",
                                          "*?[", "\x01\x7f",   "trailing "};
  for (std::size_t i = 0; i < names.size(); i++) {
    side.open("create " + std::to_string(i), names[i], O_CREAT | O_EXCL | O_RDWR);
    side.status("status " + std::to_string(i), names[i]);
  }
  std::set<std::string> seen;
  DIR* stream = opendir(side.directory().c_str());
  while (const dirent* entry = readdir(stream)) seen.insert(entry->d_name);
  closedir(stream);
  for (const auto& name : names) side.note("listed " + std::to_string(seen.contains(name) ? 1 : 0));
}

void list_many(Side& side) {
  constexpr int count = 1500;
  std::set<std::string> made;
  unsigned refused = 0;
  for (int i = 0; i < count; i++) {
    const std::string name = "entry-with-a-rather-long-name-" + std::to_string(i);
    Fd file(::open(side.path(name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644));
    if (!file.valid()) refused++;
    made.insert(name);
  }
  side.note("refused " + std::to_string(refused));
  DIR* stream = opendir(side.directory().c_str());
  std::multiset<std::string> seen;
  std::vector<std::pair<long, std::string>> places;  // position before an entry, its name
  long before = telldir(stream);
  while (const dirent* entry = readdir(stream)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      seen.insert(name);
      if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) side.note("wrong type: " + name);
      struct stat status {};
      if (seen.size() % 500 == 1 && stat(side.path(name).c_str(), &status) == 0)
        side.note(status.st_ino == entry->d_ino ? "same inode" : "inode differs");
    }
    places.emplace_back(before, name);
    before = telldir(stream);
  }
  side.note("each once: " +
            std::to_string(seen == std::multiset<std::string>(made.begin(), made.end())));
  unsigned wrong = 0;
  for (std::size_t i = 0; i < places.size(); i += 97) {
    seekdir(stream, places[places.size() - 1 - i].first);
    const dirent* entry = readdir(stream);
    if (entry == nullptr || entry->d_name != places[places.size() - 1 - i].second) wrong++;
  }
  side.note("wrong after seekdir: " + std::to_string(wrong));
  // Removed while it is read: an entry that stays must be seen exactly once.
  rewinddir(stream);
  std::multiset<std::string> kept;
  for (int n = 0; const dirent* entry = readdir(stream); n++) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (n % 2 == 0)
      unlink(side.path(name).c_str());
    else
      kept.insert(name);
  }
  closedir(stream);
  std::multiset<std::string> left;
  stream = opendir(side.directory().c_str());
  while (const dirent* entry = readdir(stream))
    if (entry->d_name[0] == 'e') left.insert(entry->d_name);
  closedir(stream);
  side.note("kept are left: " + std::to_string(kept == left));
}

void times(Side& side) {
  Fd file = side.make_file("t", 10);
  const timespec set[2] = {{1000000001, 123456789}, {1500000000, 987654321}};
  side.call("set both", futimens(file.get(), set));
  struct stat status {};
  fstat(file.get(), &status);
  side.note("access " + std::to_string(status.st_atim.tv_sec) + "." +
            std::to_string(status.st_atim.tv_nsec));
  side.note("modify " + std::to_string(status.st_mtim.tv_sec) + "." +
            std::to_string(status.st_mtim.tv_nsec));
  const timespec omit[2] = {{0, UTIME_OMIT}, {7, 5}};
  side.call("set one", utimensat(AT_FDCWD, side.path("t").c_str(), omit, 0));
  fstat(file.get(), &status);
  side.note("access kept " + std::to_string(status.st_atim.tv_sec) + ", modify " +
            std::to_string(status.st_mtim.tv_sec));
  const timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  side.call("set now", utimensat(AT_FDCWD, side.path("t").c_str(), now, 0));
  fstat(file.get(), &status);
  side.note("recent " + std::to_string(time(nullptr) - status.st_mtim.tv_sec < 100));
  side.call("missing", utimensat(AT_FDCWD, side.path("none").c_str(), now, 0));
  futimens(file.get(), set);
  const timespec before = status.st_ctim;
  usleep(20000);
  side.call("write", pwrite(file.get(), "x", 1, 0));
  fsync(file.get());
  fstat(file.get(), &status);
  side.note("write sets modify time " + std::to_string(status.st_mtim.tv_sec > 1500000000));
  side.note("write sets change time " + std::to_string(status.st_ctim.tv_sec > before.tv_sec ||
                                                       status.st_ctim.tv_nsec > before.tv_nsec));
}

void modes_and_owners(Side& side) {
  Fd file = side.make_file("f", 10);
  for (const mode_t mode : {0000u, 0444u, 0600u, 0755u, 01777u}) {
    side.call("chmod", chmod(side.path("f").c_str(), mode));
    side.status("mode", "f");
  }
  side.call("chmod", chmod(side.path("f").c_str(), 02755));
  side.status("set-group-id mode", "f");
  side.call("chmod", chmod(side.path("f").c_str(), 04755));
  side.status("set-user-id mode", "f");
  side.call("chmod missing", chmod(side.path("none").c_str(), 0600));
  side.call("chown", chown(side.path("f").c_str(), stranger, 100));
  side.status("owner", "f");
  side.call("chown user only", fchown(file.get(), 7, static_cast<gid_t>(-1)));
  side.status("owner", file.get());
  chmod(side.path("f").c_str(), 04755);
  side.call("chown drops set-user-id", chown(side.path("f").c_str(), stranger, stranger));
  side.status("after", "f");
}

void other_user(Side& side) {
  chmod(side.directory().c_str(), 0755);
  side.make_file("private", 10);
  chmod(side.path("private").c_str(), 0600);
  side.make_file("public", 10);
  chmod(side.path("public").c_str(), 0644);
  side.as_user(stranger, [](Side& user) {
    user.open("read private", "private", O_RDONLY);
    user.open("read public", "public", O_RDONLY);
    user.open("write public", "public", O_RDWR);
    user.open("create", "mine", O_CREAT | O_RDWR);
    user.call("chmod", chmod(user.path("public").c_str(), 0777));
    user.call("chown", chown(user.path("public").c_str(), stranger, stranger));
    user.call("unlink", unlink(user.path("public").c_str()));
    user.call("rename", rename(user.path("public").c_str(), user.path("p").c_str()));
    user.call("truncate", truncate(user.path("public").c_str(), 0));
    user.call("access", access(user.path("private").c_str(), R_OK));
    user.call("touch", utimensat(AT_FDCWD, user.path("public").c_str(), nullptr, 0));
  });
  chmod(side.directory().c_str(), 0700);
  side.as_user(stranger, [](Side& user) {
    user.open("read in a private directory", "public", O_RDONLY);
    user.open("list a private directory", ".", O_RDONLY | O_DIRECTORY);
    user.status("status in a private directory", "public");
  });
  chown(side.directory().c_str(), stranger, stranger);
  side.as_user(stranger, [](Side& user) {
    user.open("owner creates", "mine", O_CREAT | O_RDWR, 0600);
    user.status("owned by", "mine");
    user.call("owner changes mode", chmod(user.path("mine").c_str(), 0640));
    user.call("owner removes another's file", unlink(user.path("private").c_str()));
    user.call("owner gives away", chown(user.path("mine").c_str(), 0, 0));
  });
  chmod(side.directory().c_str(), 01777);
  side.make_file("roots", 1);
  side.as_user(7, [](Side& user) {
    user.open("create in a sticky directory", "seven", O_CREAT | O_RDWR);
    user.call("remove another's file there", unlink(user.path("roots").c_str()));
  });
  side.status("own file there", "seven");
  chmod(side.directory().c_str(), 02755);
  chown(side.directory().c_str(), 0, 100);
  chmod(side.directory().c_str(), 02755);
  side.open("create in a set-group-id directory", "grouped", O_CREAT | O_RDWR);
  side.status("its group", "grouped");
  chmod(side.directory().c_str(), 0755);
  chown(side.directory().c_str(), 0, 0);
}

void extended_attributes(Side& side) {
  side.make_file("f", 10);
  const std::string path = side.path("f");
  char value[64];
  side.call("get unknown", getxattr(path.c_str(), "user.none", value, sizeof value));
  side.call("remove unknown", removexattr(path.c_str(), "user.none"));
  side.call("get without a space", getxattr(path.c_str(), "none", value, sizeof value));
  side.call("set", setxattr(path.c_str(), "user.color", "blue", 4, 0));
  side.call("get", getxattr(path.c_str(), "user.color", value, sizeof value));
}

void space(Side& side) {
  struct statvfs before {
  }, after{};
  side.call("statvfs", statvfs(side.directory().c_str(), &before));
  Fd file = side.make_file("f", 32 << 20);
  side.call("fsync", fsync(file.get()));
  side.call("fstatvfs", fstatvfs(file.get(), &after));
  const auto bytes = [](const struct statvfs& figures, auto member) {
    return static_cast<double>(figures.*member) * static_cast<double>(figures.f_frsize);
  };
  side.note("free <= total " + std::to_string(after.f_bfree <= after.f_blocks));
  side.note("available <= free " + std::to_string(after.f_bavail <= after.f_bfree));
  side.note("names of 255 bytes " + std::to_string(after.f_namemax == 255));
  const double fell = bytes(before, &statvfs::f_bfree) - bytes(after, &statvfs::f_bfree);
  side.note("free fell by what was written " + std::to_string(fell > 24e6));
  struct stat status {};
  fstat(file.get(), &status);
  side.note("st_blocks tells it " + std::to_string(status.st_blocks * 512 >= 32 << 20));
}

}  // namespace

const std::vector<Case> name_cases = {
    {"create_modes", create_modes},
    {"open_flags", open_flags},
    {"truncate_on_open", truncate_on_open},
    {"append", append},
    {"unlink_open", unlink_open},
    {"rename", rename_over},
    {"directories", directories},
    {"special_nodes", special_nodes},
    {"long_names", long_names},
    {"special_names", special_names},
    {"list_many", list_many},
    {"times", times},
    {"modes_and_owners", modes_and_owners},
    {"other_user", other_user},
    {"extended_attributes", extended_attributes},
    {"space", space},
};

}  // namespace judge
