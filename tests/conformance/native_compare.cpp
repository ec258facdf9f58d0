// native_compare MOUNT PLAIN: the same system calls in a VM directory of a mount
// and in a plain directory; results, errno, status and content must be equal,
// but for the differences that are listed here with their reason.
//
// A listed difference is checked too: the mount must answer exactly what the
// table says, and a line that no longer differs makes the run fail.
#include <algorithm>
#include <set>

#include "tests/conformance/native_side.h"

namespace judge {

const std::vector<Difference> documented_differences = {
    {"directories", "nested mkdir", "EPERM",
     "the tree has two levels: a directory per VM, a file per disk"},
    {"special_nodes", "symlink", "EPERM", "a VM directory holds disks alone"},
    {"special_nodes", "link", "EPERM", "a disk has one name"},
    {"special_nodes", "mkfifo", "EPERM", "a VM directory holds disks alone"},
    {"special_nodes", "mknod device", "EPERM", "a VM directory holds disks alone"},
    {"modes_and_owners", "set-group-id mode", "file mode 0755 size 10 owner 0:0 links 1",
     "a disk is no program: its set-id bits are dropped"},
    {"modes_and_owners", "set-user-id mode", "file mode 0755 size 10 owner 0:0 links 1",
     "a disk is no program: its set-id bits are dropped"},
    {"rename", "exchange", "EINVAL", "two disks are not exchanged"},
    {"extended_attributes", "get without a space", "ENODATA",
     "attributes are figures of the pool, by name; there is nothing to ask the kernel for"},
    {"extended_attributes", "set", "EOPNOTSUPP", "a disk has no attributes of its own"},
    {"extended_attributes", "get", "ENODATA", "a disk has no attributes of its own"},
    {"shifting", "collapse", "EOPNOTSUPP", "disks do not shift their content"},
    {"shifting", "insert", "EOPNOTSUPP", "disks do not shift their content"},
    {"direct_unaligned", "odd length", "100", "the pool aligns what the caller did not"},
    {"direct_unaligned", "odd offset", "512", "the pool aligns what the caller did not"},
    {"temporary_file", "O_TMPFILE", "EOPNOTSUPP", "a disk has a name from the start"},
};

namespace {

struct Tally {
  unsigned lines = 0, documented = 0, failed = 0;
};

const Difference* documented(const Case& test, const std::string& line) {
  for (const auto& entry : documented_differences)
    if (entry.case_name == std::string(test.name) &&
        line.starts_with(std::string(entry.line) + " = "))
      return &entry;
  return nullptr;
}

void compare(const Case& test, const Side& mount, const Side& plain, Tally& tally) {
  const std::size_t count = std::max(mount.log().size(), plain.log().size());
  for (std::size_t i = 0; i < count; i++) {
    const std::string ours = i < mount.log().size() ? mount.log()[i] : "(nothing)";
    const std::string native = i < plain.log().size() ? plain.log()[i] : "(nothing)";
    tally.lines++;
    if (const Difference* known = documented(test, ours)) {
      tally.documented++;
      const std::string must = std::string(known->line) + " = " + known->mount_answer;
      if (ours == must && ours != native) continue;
      tally.failed++;
      std::printf("%s: mount: %s\n%*s  must be: %s (%s); plain: %s\n", test.name, ours.c_str(),
                  static_cast<int>(std::strlen(test.name)), "", must.c_str(), known->reason,
                  native.c_str());
    } else if (ours != native) {
      tally.failed++;
      std::printf("%s: mount: %s\n%*s  plain: %s\n", test.name, ours.c_str(),
                  static_cast<int>(std::strlen(test.name)), "", native.c_str());
    }
  }
}

// An empty directory of the case's name on each side. On a mount the directory
// is a VM's and lies at its root.
std::string prepare(const std::string& parent, const char* name) {
  const std::string path = parent + "/" + name;
  if (mkdir(path.c_str(), 0755) < 0) die("cannot make %s: %s", path.c_str(), std::strerror(errno));
  if (chmod(path.c_str(), 0755) < 0) die("cannot open up %s", path.c_str());
  return path;
}

int run(const std::string& mount, const std::string& plain, const std::string& only) {
  umask(022);
  Tally tally;
  unsigned ran = 0;
  std::vector<Case> cases = name_cases;
  cases.insert(cases.end(), content_cases.begin(), content_cases.end());
  for (const Case& test : cases) {
    if (!only.empty() && only != test.name) continue;
    Side ours(prepare(mount, test.name)), native(prepare(plain, test.name));
    test.run(ours);
    test.run(native);
    compare(test, ours, native, tally);
    ran++;
  }
  std::printf("%u cases, %u calls compared, %u differ as documented, %u wrong\n", ran, tally.lines,
              tally.documented, tally.failed);
  return tally.failed == 0 && ran > 0 ? 0 : exit_failed;
}

}  // namespace
}  // namespace judge

int main(int argc, char** argv) {
  const judge::Options options(argc, argv, {"case"}, {},
                               "usage: native_compare MOUNT PLAIN [--case NAME]");
  if (options.words.size() != 2) options.usage_error("a mount point and a plain directory");
  return judge::run(options.words[0], options.words[1], options.text("case"));
}
