#include "vmm/sandbox/confinement.h"

#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <string_view>

#include "base/log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TIDEPOOL_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TIDEPOOL_SANITIZED
#endif
#endif

namespace tidepool::vmm {

namespace {

#ifdef TIDEPOOL_SANITIZED
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

// By number, written once before there are threads: a signal's handler cannot ask for them.
struct CallName {
  std::array<char, 32> text{};
};
std::array<CallName, 512> call_names;

void remember_call_names() {
  for (std::size_t i = 0; i < call_names.size(); ++i) {
    char* const name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(i));
    if (name == nullptr) continue;
    std::strncpy(call_names[i].text.data(), name, call_names[i].text.size() - 1);
    std::free(name);
  }
}

// Text in a handler of signals, where nothing may be allocated.
class Message {
 public:
  Message& operator<<(std::string_view text) {
    const std::size_t count = std::min(text.size(), bytes_.size() - length_);
    std::memcpy(bytes_.data() + length_, text.data(), count);
    length_ += count;
    return *this;
  }
  Message& operator<<(unsigned number) {
    std::array<char, 10> digits;
    std::size_t at = digits.size();
    do {
      digits[--at] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    return *this << std::string_view(&digits[at], digits.size() - at);
  }
  void print() const {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, bytes_.data(), length_);
  }

 private:
  std::array<char, 256> bytes_;
  std::size_t length_ = 0;
};

void on_forbidden_call(int, siginfo_t* info, void* context) {
  std::array<char, 17> thread{};
  ::prctl(PR_GET_NAME, thread.data());
  const auto number = static_cast<unsigned>(info->si_syscall);
  Message message;
  message << "leanvm: the thread '" << thread.data() << "' is not allowed the system call ";
  if (number < call_names.size() && call_names[number].text[0] != '\0') {
    message << call_names[number].text.data() << " ";
  }
  message << "(" << number << ")";
  if (number == SYS_ioctl) {
    const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
    message << ", request " << static_cast<unsigned>(registers[REG_RSI]);
  }
  message << ": the machine ends\n";
  message.print();
  ::_exit(1);
}

Result<> keep_capabilities(std::uint64_t kept) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0)
    return fail_errno(errno, "cannot ask for the thread's capabilities");
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const auto mask = static_cast<std::uint32_t>(kept >> (32 * i));
    sets[i].permitted &= mask;
    sets[i].effective &= mask;
    sets[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, sets.data()) != 0)
    return fail_errno(errno, "cannot give up capabilities");
  return {};
}

Result<> add_rules(scmp_filter_ctx filter, std::span<const AllowedCall> calls) {
  for (const AllowedCall& call : calls) {
    const scmp_arg_cmp condition{static_cast<unsigned>(std::max(call.argument, 0)),
                                 SCMP_CMP_MASKED_EQ, call.mask, call.value};
    const int error = ::seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call.number,
                                               call.argument < 0 ? 0U : 1U, &condition);
    if (error != 0 && error != -EEXIST)
      return fail_errno(-error, fmt::format("cannot allow the system call {}", call.number));
  }
  return {};
}

Result<> install_filter(ThreadKind kind) {
  struct Release {
    void operator()(void* filter) const { ::seccomp_release(filter); }
  };
  const std::unique_ptr<void, Release> filter(::seccomp_init(SCMP_ACT_TRAP));
  if (!filter) return fail(ErrorKind::io, "cannot make a filter of system calls");
  // A jump or two instead of a list: the kernel runs it at each call.
  ::seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (auto added = add_rules(filter.get(), common_calls()); !added) return added;
  if (auto added = add_rules(filter.get(), calls_of(kind)); !added) return added;
  // Its flags are in memory, where a filter does not see them: the C library then uses
  // clone(), whose are not.
  ::seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SYS_clone3, 0);
  const int error = ::seccomp_load(filter.get());
  if (error == 0) return {};
  return fail_errno(-error,
                    "cannot confine the machine by a filter of system calls; the kernel must have "
                    "seccomp filters (CONFIG_SECCOMP_FILTER)");
}

}  // namespace

Result<> confine_process() {
  if (sanitized) return {};
  // What the first line of the log would ask for, on a thread that may not.
  ::tzset();
  (void)log();
  remember_call_names();
  struct sigaction action {};
  action.sa_sigaction = on_forbidden_call;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGSYS, &action, nullptr) != 0)
    return fail_errno(errno, "cannot wait for SIGSYS");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return fail_errno(errno, "cannot give up new privileges");
  return confine_thread(ThreadKind::process);
}

Result<> confine_thread(ThreadKind kind) {
  if (sanitized) return {};
  sigset_t forbidden;
  ::sigemptyset(&forbidden);
  ::sigaddset(&forbidden, SIGSYS);  // blocked, it would end the process without a word
  ::pthread_sigmask(SIG_UNBLOCK, &forbidden, nullptr);
  if (auto kept = keep_capabilities(capabilities_of(kind)); !kept) return kept;
  return install_filter(kind);
}

}  // namespace tidepool::vmm
