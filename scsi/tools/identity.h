// Names of the target.
#pragma once

#include <string>

#include "base/result.h"

namespace tidepool::scsi::tools {

std::string default_target_name(const std::string& disk);
// An iSCSI qualified name or an EUI-64, in small letters.
Result<> check_target_name(const std::string& name);

}  // namespace tidepool::scsi::tools
