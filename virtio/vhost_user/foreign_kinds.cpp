#include "virtio/vhost_user/foreign_kinds.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <cstddef>

#include "virtio/net_features.h"

namespace tidepool::virtio::vhost_user {

namespace {

std::uint64_t bits(std::initializer_list<unsigned> numbers) {
  std::uint64_t all = ring_features;
  for (const unsigned number : numbers) all |= std::uint64_t{1} << number;
  return all;
}

constexpr std::uint32_t block_config_bytes = 60;

}  // namespace

ForeignOptions foreign_block(std::uint16_t queues) {
  return {.id = VIRTIO_ID_BLOCK,
          .features = bits({VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_GEOMETRY,
                            VIRTIO_BLK_F_RO, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH,
                            VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_DISCARD,
                            VIRTIO_BLK_F_WRITE_ZEROES}),
          .config_bytes = block_config_bytes,
          .queues = queues,
          .queue_count_at = offsetof(virtio_blk_config, num_queues)};
}

ForeignOptions foreign_net(const MacAddress& address) {
  const auto config = net::config_of(address);
  return {.id = VIRTIO_ID_NET,
          .features = ring_features | net::packet_features,
          .own_features = net::card_features,
          .config = {config.begin(), config.end()},
          .queues = 2,
          .whole_pairs = true};
}

}  // namespace tidepool::virtio::vhost_user
