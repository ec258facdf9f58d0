#include "blockdev/attach/disk_server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36 leaves that to its users
#include <sys/pidfd.h>
}

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>

namespace tidepool::blockdev::attach {

namespace {

using namespace std::chrono_literals;

constexpr auto start_deadline = 60s;
constexpr int exec_failed = 127;

// In the server's process, until it is nbdkit.
[[noreturn]] void become(std::vector<char*>& arguments, int log) {
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execvp(arguments.front(), arguments.data());
  ::dprintf(STDERR_FILENO, "cannot run %s: %s\n", arguments.front(), std::strerror(errno));
  ::_exit(exec_failed);
}

struct Pipe {
  UniqueFd reader, writer;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "cannot make a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

struct Orphan {
  pid_t pid;
  UniqueFd process;  // its pidfd
};

// nbdkit as a child of init. It waits for a word until that is so, and until its pidfd
// is there, before it becomes nbdkit.
Result<Orphan> start_orphan(std::vector<char*>& arguments, int log) {
  auto news = make_pipe();
  auto word = make_pipe();
  if (!news || !word) return std::unexpected((news ? word : news).error());
  const pid_t between = ::fork();
  if (between < 0) return fail_errno(errno, "cannot start nbdkit");
  if (between == 0) {
    const pid_t pid = ::fork();
    if (pid != 0) {
      const bool told = ::write(news->writer.get(), &pid, sizeof pid) == sizeof pid;
      ::_exit(told ? 0 : exec_failed);
    }
    word->writer.reset();
    char go = 0;
    if (::read(word->reader.get(), &go, 1) != 1) ::_exit(exec_failed);
    become(arguments, log);
  }
  ::waitpid(between, nullptr, 0);
  news->writer.reset();
  pid_t pid = -1;
  if (::read(news->reader.get(), &pid, sizeof pid) != sizeof pid || pid < 0)
    return fail(ErrorKind::io, "cannot start nbdkit: no process for it");
  UniqueFd process(::pidfd_open(pid, 0));
  if (!process) return fail_errno(errno, "cannot watch nbdkit");
  const char go = 1;
  if (::write(word->writer.get(), &go, 1) != 1) return fail_errno(errno, "cannot start nbdkit");
  return Orphan{pid, std::move(process)};
}

}  // namespace

std::vector<std::string> server_command(const ServerPlan& plan) {
  std::vector<std::string> command{"nbdkit", "--foreground"};
  if (plan.read_only) command.push_back("--readonly");
  if (plan.write_through) command.push_back("--filter=fua");
  if (plan.target.kind == TargetKind::chain) {
    command.push_back(plan.plugin);
    command.push_back("top=" + plan.target.location);
  } else {
    command.push_back("file");
    command.push_back("file=" + plan.target.location);
  }
  if (plan.write_through) command.push_back("fuamode=force");
  return command;
}

Result<DiskServer> DiskServer::start(const ServerPlan& plan,
                                     const std::filesystem::path& directory) {
  const std::filesystem::path ready = directory / "server.pid";
  std::filesystem::remove(directory / "socket");
  std::filesystem::remove(ready);
  UniqueFd log(::open((directory / "log").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!log) return fail_errno(errno, "cannot write to " + (directory / "log").native());

  std::vector<std::string> command = server_command(plan);
  command.insert(command.begin() + 1, {"--unix", (directory / "socket").native(),
                                       "--pidfile", ready.native()});
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  auto orphan = start_orphan(arguments, log.get());
  if (!orphan) return std::unexpected(orphan.error());

  DiskServer server(orphan->pid, std::move(orphan->process));
  const auto end = std::chrono::steady_clock::now() + start_deadline;
  while (!std::filesystem::exists(ready)) {
    if (!server.is_running() || std::chrono::steady_clock::now() > end) {
      return fail(ErrorKind::io, "cannot serve '{}': {}", plan.target.location,
                  last_message(directory));
    }
    std::this_thread::sleep_for(5ms);
  }
  return server;
}

DiskServer& DiskServer::operator=(DiskServer&& other) noexcept {
  if (this != &other) {
    kill();
    pid_ = other.pid_;
    process_ = std::move(other.process_);
  }
  return *this;
}

bool DiskServer::ends_within(std::chrono::milliseconds patience) const {
  pollfd entry{.fd = process_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, static_cast<int>(patience.count())) > 0;
}

bool DiskServer::is_running() const { return process_ && !ends_within(0ms); }

void DiskServer::stop(std::chrono::seconds patience) {
  if (!is_running()) return;
  ::pidfd_send_signal(process_.get(), SIGTERM, nullptr, 0);
  if (!ends_within(patience)) kill();
}

void DiskServer::kill() {
  if (!is_running()) return;
  ::pidfd_send_signal(process_.get(), SIGKILL, nullptr, 0);
  ends_within(-1ms);  // no limit
}

std::string last_message(const std::filesystem::path& directory) {
  std::ifstream file(directory / "log");
  std::string line, last;
  while (std::getline(file, line))
    if (!line.empty()) last = line;
  constexpr std::string_view marker = "error: ";
  if (const auto at = last.find(marker); last.starts_with("nbdkit: ") && at != last.npos)
    last.erase(0, at + marker.size());
  return last.empty() ? "nbdkit did not get ready and did not say why" : last;
}

}  // namespace tidepool::blockdev::attach
