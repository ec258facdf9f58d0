#include "scsi/names.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>

#include "base/byte_order.h"
#include "base/result.h"
#include "scsi/big_endian.h"

namespace tidepool::scsi {

void name_unit(Identity& identity, const std::string& device, unsigned number) {
  const std::string text = fmt::format("{}\n{}", device, number);
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  store_le64(identity.uuid.data(), hash.high64);
  store_le64(identity.uuid.data() + 8, hash.low64);
  identity.serial = fmt::format("{:016x}", hash.high64);
}

PortId local_port(const std::string& name, unsigned number) {
  constexpr std::byte sas{0x06};
  constexpr std::uint64_t locally_assigned = std::uint64_t{3} << 60;  // NAA
  const std::string text = fmt::format("{}\n{}", name, number);
  std::array<std::byte, 24> id{};
  id[0] = sas;
  store_be64(&id[4], locally_assigned | XXH3_64bits(text.data(), text.size()) >> 4);
  return {reinterpret_cast<const char*>(id.data()), id.size()};
}

}  // namespace tidepool::scsi
