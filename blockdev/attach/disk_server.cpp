#include "blockdev/attach/disk_server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <thread>

#include "base/unique_fd.h"

namespace tidepool::blockdev::attach {

namespace {

using namespace std::chrono_literals;

constexpr auto start_deadline = 60s;
constexpr int exec_failed = 127;

// In the child, between fork and exec.
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

bool has_ended(pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; }

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
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "cannot start nbdkit");
  if (pid == 0) become(arguments, log.get());

  DiskServer server(pid);
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
    pid_ = std::exchange(other.pid_, -1);
  }
  return *this;
}

bool DiskServer::is_running() {
  if (pid_ > 0 && has_ended(pid_)) pid_ = -1;
  return pid_ > 0;
}

void DiskServer::stop(std::chrono::seconds patience) {
  if (!is_running()) return;
  ::kill(pid_, SIGTERM);
  const auto end = std::chrono::steady_clock::now() + patience;
  while (is_running() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(5ms);
  kill();
}

void DiskServer::kill() {
  if (!is_running()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
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
