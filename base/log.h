// The process's one log: to stderr, where a service manager collects it.
//
// The level comes from the environment: TIDEPOOL_LOG=trace|debug|info|warning|
// error|off; default info. Lines carry time and level on a terminal only, as
// the journal adds its own.
#pragma once

#include <spdlog/spdlog.h>

namespace tidepool {

// Thread-safe; made on first use.
spdlog::logger& log();

}  // namespace tidepool
