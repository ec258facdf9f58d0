// The terminal, attached to the console of a machine that runs in another process.
#pragma once

#include <string>

#include "base/result.h"

namespace tidepool::tools {

// Until the machine ends, or Ctrl-A and then x are typed. When standard input ends before,
// what the guest prints is still shown.
Result<> attach_console(const std::string& machine);

}  // namespace tidepool::tools
