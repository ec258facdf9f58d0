// A thread that takes no signals: they reach the program's own thread.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <string>
#include <thread>

#include "base/scope_guard.h"

namespace tidepool {

// `name` is what ps and a debugger show; 15 bytes of it count. taken: a signal that is not
// blocked all the same, 0: none. Throws std::system_error when no thread is left.
template <class Function>
std::thread start_quiet_thread(const std::string& name, Function run, int taken = 0) {
  sigset_t blocked, before;
  ::sigfillset(&blocked);
  if (taken != 0) ::sigdelset(&blocked, taken);
  ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
  const ScopeGuard restore([&before] { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); });
  std::thread thread(std::move(run));
  constexpr std::size_t most = 15;
  ::pthread_setname_np(thread.native_handle(), name.substr(0, most).c_str());
  return thread;
}

}  // namespace tidepool
