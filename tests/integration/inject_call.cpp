// Makes a thread of another process make a system call, as one would whose code an attacker
// directs: the call and its arguments (zeros) are the thread's own, so that what it is
// allowed decides what comes of it.
//
//   inject_call PID THREAD CALL
//
// THREAD: the beginning of its name; CALL: a number. Prints "made: RESULT" and lets the
// thread go on as if nothing had been; or "not made" if the kernel did not begin the call,
// and leaves the thread to what follows. Exit status 2: no such thread, or it cannot be had.
#include <dirent.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace {

int find_thread(const std::string& process, const std::string& name) {
  const std::string tasks = "/proc/" + process + "/task";
  DIR* const directory = ::opendir(tasks.c_str());
  if (directory == nullptr) return 0;
  int found = 0;
  while (const dirent* const entry = ::readdir(directory)) {
    std::string comm;
    std::getline(std::ifstream(tasks + "/" + entry->d_name + "/comm"), comm);
    if (entry->d_name[0] != '.' && comm.starts_with(name)) found = std::atoi(entry->d_name);
  }
  ::closedir(directory);
  return found;
}

constexpr int call_stop = SIGTRAP | 0x80;

bool wait_for_stop(pid_t thread, int& signal) {
  int status = 0;
  if (::waitpid(thread, &status, __WALL) != thread || !WIFSTOPPED(status)) return false;
  signal = WSTOPSIG(status);
  return true;
}

// Stopped inside a call, where the processor's next instruction follows a `syscall`.
bool stop_in_call(pid_t thread, user_regs_struct& registers) {
  for (int tries = 0; tries < 1000; ++tries) {
    int signal = 0;
    if (::ptrace(PTRACE_INTERRUPT, thread, 0, 0) != 0 || !wait_for_stop(thread, signal))
      return false;
    if (::ptrace(PTRACE_GETREGS, thread, 0, &registers) != 0) return false;
    errno = 0;
    const long code = ::ptrace(PTRACE_PEEKTEXT, thread, registers.rip - 2, 0);
    if (errno == 0 && (code & 0xffff) == 0x050f && static_cast<long>(registers.orig_rax) >= 0)
      return true;
    ::ptrace(PTRACE_CONT, thread, 0, 0);
    ::usleep(1000);
  }
  return false;
}

int inject(pid_t thread, long call) {
  user_regs_struct before{};
  if (::ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD) != 0) return 2;
  if (!stop_in_call(thread, before)) return 2;
  user_regs_struct changed = before;
  changed.rip -= 2;
  changed.orig_rax = static_cast<unsigned long long>(-1);  // the call it was in is not resumed
  changed.rax = static_cast<unsigned long long>(call);
  changed.rdi = changed.rsi = changed.rdx = changed.r10 = changed.r8 = changed.r9 = 0;
  if (::ptrace(PTRACE_SETREGS, thread, 0, &changed) != 0) return 2;
  for (int stops = 0; stops < 2;) {  // before the call, after it
    int signal = 0;
    if (::ptrace(PTRACE_SYSCALL, thread, 0, 0) != 0 || !wait_for_stop(thread, signal)) return 2;
    if (signal == call_stop) ++stops;
  }
  user_regs_struct after{};
  if (::ptrace(PTRACE_GETREGS, thread, 0, &after) != 0) return 2;
  const auto result = static_cast<long>(after.rax);
  if (result == call) {  // as before it: the call was not begun
    std::puts("not made");
    std::fflush(stdout);
    return ::ptrace(PTRACE_DETACH, thread, 0, 0) == 0 ? 0 : 2;
  }
  std::printf("made: %ld\n", result);
  std::fflush(stdout);
  before.rip -= 2;  // the call it was in, once more
  before.rax = before.orig_rax;
  before.orig_rax = static_cast<unsigned long long>(-1);
  if (::ptrace(PTRACE_SETREGS, thread, 0, &before) != 0) return 2;
  return ::ptrace(PTRACE_DETACH, thread, 0, 0) == 0 ? 0 : 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int thread = find_thread(argv[1], argv[2]);
  if (thread == 0) return std::fprintf(stderr, "no thread '%s'\n", argv[2]), 2;
  const int status = inject(thread, std::atol(argv[3]));
  if (status != 0) std::perror("cannot direct the thread");
  return status;
}
