// One side of the comparison: a directory, and the log of what calls did there.
//
// A case makes the same calls on the mount and on a plain directory; each call
// leaves a line (name, result or errno). The lines of both sides must be equal.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/lib/judge.h"

namespace judge {

class Side {
 public:
  explicit Side(std::string directory) : directory_(std::move(directory)) {}

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  const std::string& directory() const { return directory_; }
  const std::vector<std::string>& log() const { return log_; }

  // The result of a call that returns -1 and errno; hides the value if it is a
  // descriptor. Returns it unchanged.
  long call(const std::string& what, long result, bool is_descriptor = false);
  Fd open(const std::string& what, const std::string& name, int flags, mode_t mode = 0644);
  // Type, mode, size, owner, link count of a file (a directory's differs by design).
  void status(const std::string& what, const std::string& name);
  void status(const std::string& what, int fd);
  void content(const std::string& what, int fd, std::size_t limit = 1 << 20);
  void note(const std::string& line) { log_.push_back(line); }
  // A new file with `size` bytes of a fixed pattern; open for reading and writing.
  Fd make_file(const std::string& name, std::size_t size);
  // Runs `body` in a child that has the identity of another user; its lines are kept.
  void as_user(uid_t user, const std::function<void(Side&)>& body);

 private:
  void status_line(const std::string& what, const struct stat& status);
  std::string directory_;
  std::vector<std::string> log_;
};

std::string pattern(std::size_t size, unsigned seed = 1);

struct Case {
  const char* name;
  void (*run)(Side& side);
};
extern const std::vector<Case> name_cases;     // native_names.cpp
extern const std::vector<Case> content_cases;  // native_content.cpp

// A line that differs by decision: what the mount must answer instead, and why.
struct Difference {
  const char* case_name;
  const char* line;  // the call, as noted by the case
  const char* mount_answer;
  const char* reason;
};
extern const std::vector<Difference> documented_differences;  // native_compare.cpp

}  // namespace judge
