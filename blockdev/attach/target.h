// What can be attached: a chain, a raw file or device, an NBD URI.
//
// A chain is known by the header of its top layer. Any other file is taken only if
// the caller says that it is raw: a format is never guessed.
#pragma once

#include <string>

#include "base/result.h"

namespace tidepool::blockdev::attach {

enum class TargetKind { chain, raw, uri };

struct Target {
  TargetKind kind;
  std::string location;  // an absolute path, or the URI
  bool sealed = false;   // a layer that is never written again
};

// "chain", "raw", "uri"
const char* to_text(TargetKind kind);

// `raw`: the argument is a raw file or device. Refuses a URI with TLS.
Result<Target> find_target(const std::string& argument, bool raw);

}  // namespace tidepool::blockdev::attach
