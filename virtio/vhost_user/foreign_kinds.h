// What is asked of a back end that is a disk, or a network card.
#pragma once

#include "virtio/mac_address.h"
#include "virtio/vhost_user/foreign_device.h"

namespace tidepool::virtio::vhost_user {

ForeignOptions foreign_block(std::uint16_t queues);
ForeignOptions foreign_net(const MacAddress& address);

}  // namespace tidepool::virtio::vhost_user
