#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace tidepool {

namespace {

std::shared_ptr<spdlog::logger> make_logger() {
  auto logger = std::make_shared<spdlog::logger>("tidepool",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern(::isatty(STDERR_FILENO) ? "%H:%M:%S.%e %l: %v" : "%l: %v");
  logger->set_level(spdlog::level::info);
  if (const char* wanted = std::getenv("TIDEPOOL_LOG")) {
    const auto level = spdlog::level::from_str(wanted);  // off for a name it does not know
    if (level != spdlog::level::off || std::string(wanted) == "off") {
      logger->set_level(level);
    } else {
      logger->warn("TIDEPOOL_LOG='{}' is no level: use trace, debug, info, warning, error or off",
                   wanted);
    }
  }
  logger->flush_on(spdlog::level::trace);
  return logger;
}

}  // namespace

spdlog::logger& log() {
  // Never destroyed: threads may log while the process exits.
  static auto* const logger = new std::shared_ptr<spdlog::logger>(make_logger());
  return **logger;
}

}  // namespace tidepool
