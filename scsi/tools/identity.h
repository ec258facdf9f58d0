// Names of the target and its logical units.
//
// A unit's identity is made of the target's name and the unit's number, so that it is the
// same after a restart, and on another host that serves the same disk under the same name.
#pragma once

#include <string>

#include "base/result.h"
#include "scsi/inquiry.h"

namespace tidepool::scsi::tools {

std::string default_target_name(const std::string& disk);
// An iSCSI qualified name or an EUI-64, in small letters.
Result<> check_target_name(const std::string& name);
// Of identity.target_name.
void name_unit(Identity& identity, unsigned number);

}  // namespace tidepool::scsi::tools
