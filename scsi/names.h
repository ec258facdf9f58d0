// Names that are made of other names, so that they are the same after a restart: the
// identity of a logical unit, the initiator port of one who has no name of the standard's.
#pragma once

#include <string>

#include "scsi/inquiry.h"
#include "scsi/persistent_reservations.h"

namespace tidepool::scsi {

// uuid and serial, made of the device's name and the unit's number: also the same on
// another host that serves the same disk under the same name.
void name_unit(Identity& identity, const std::string& device, unsigned number);

// The TransportID of an initiator that is a virtual machine on this host: SAS's, as such
// initiators have no protocol of their own in SPC-4, with a locally assigned address that is
// made of `name` and `number`.
PortId local_port(const std::string& name, unsigned number);

}  // namespace tidepool::scsi
