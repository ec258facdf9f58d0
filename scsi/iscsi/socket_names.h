// The two ends of a socket as text: ADDRESS:PORT, IPv6 addresses in brackets.
#pragma once

#include <string>

namespace tidepool::scsi::iscsi {

std::string local_name(int socket);
std::string peer_name(int socket);

}  // namespace tidepool::scsi::iscsi
