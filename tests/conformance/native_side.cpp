#include "tests/conformance/native_side.h"

#include <grp.h>
#include <sys/wait.h>

#include <algorithm>

namespace judge {

std::string pattern(std::size_t size, unsigned seed) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; i++)
    text[i] = static_cast<char>('!' + (i * 7 + i / 93 + seed * 13) % 90);
  return text;
}

long Side::call(const std::string& what, long result, bool is_descriptor) {
  const int error = errno;
  if (result < 0)
    note(what + " = " + (strerrorname_np(error) ? strerrorname_np(error) : "?"));
  else
    note(what + " = " + (is_descriptor ? "a descriptor" : std::to_string(result)));
  errno = error;
  return result;
}

Fd Side::open(const std::string& what, const std::string& name, int flags, mode_t mode) {
  return Fd(
      static_cast<int>(call(what, ::open(path(name).c_str(), flags | O_CLOEXEC, mode), true)));
}

void Side::status(const std::string& what, const std::string& name) {
  struct stat status {};
  if (lstat(path(name).c_str(), &status) < 0)
    call(what, -1);
  else
    status_line(what, status);
}

void Side::status(const std::string& what, int fd) {
  struct stat status {};
  if (fstat(fd, &status) < 0)
    call(what, -1);
  else
    status_line(what, status);
}

void Side::status_line(const std::string& what, const struct stat& status) {
  const bool directory = S_ISDIR(status.st_mode);
  char text[200];
  std::snprintf(text, sizeof text, " = %s mode %04o size %lld owner %u:%u links %s",
                directory                 ? "directory"
                : S_ISREG(status.st_mode) ? "file"
                                          : "other",
                status.st_mode & 07777, directory ? 0LL : static_cast<long long>(status.st_size),
                status.st_uid, status.st_gid,
                directory ? "-" : std::to_string(status.st_nlink).c_str());
  note(what + text);
}

void Side::content(const std::string& what, int fd, std::size_t limit) {
  std::string data(limit, '\0');
  const ssize_t got = pread(fd, data.data(), data.size(), 0);
  if (got < 0) {
    call(what, -1);
    return;
  }
  data.resize(static_cast<std::size_t>(got));
  note(what + " = " + std::to_string(got) + " bytes, sum " +
       std::to_string(std::hash<std::string>{}(data)));
}

Fd Side::make_file(const std::string& name, std::size_t size) {
  Fd file(::open(path(name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const std::string data = pattern(size);
  if (!file.valid() || ::pwrite(file.get(), data.data(), size, 0) != static_cast<ssize_t>(size))
    die("cannot prepare %s: %s", path(name).c_str(), std::strerror(errno));
  return file;
}

void Side::as_user(uid_t user, const std::function<void(Side&)>& body) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe: %s", std::strerror(errno));
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) die("fork: %s", std::strerror(errno));
  if (child == 0) {
    Side other(directory_);
    if (setgroups(0, nullptr) < 0 || setgid(user) < 0 || setuid(user) < 0)
      other.note("cannot become another user");
    else
      body(other);
    std::string text;
    for (const auto& line : other.log()) text += line + "\n";
    const bool sent = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(sent ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  close(ends[0]);
  int how = 0;
  waitpid(child, &how, 0);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    note("user: " + text.substr(at, end - at));
    at = end + 1;
  }
  if (how != 0) note("the child failed");
}

}  // namespace judge
