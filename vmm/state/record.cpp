#include "vmm/state/record.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "base/byte_order.h"

namespace tidepool::vmm {

namespace {

constexpr std::array<char, 8> magic{'T', 'I', 'D', 'E', 'V', 'M', 'S', 'T'};
constexpr std::size_t version_offset = 8, file_hash_offset = 16;
constexpr std::size_t hashed_header_bytes = 16;

}  // namespace

std::array<std::byte, file_header_bytes> encode_file_header() {
  std::array<std::byte, file_header_bytes> bytes{};
  std::memcpy(bytes.data(), magic.data(), magic.size());
  store_le32(&bytes[version_offset], state_version);
  store_le64(&bytes[file_hash_offset], XXH3_64bits(bytes.data(), file_hash_offset));
  return bytes;
}

Result<> check_file_header(std::span<const std::byte, file_header_bytes> bytes,
                           const std::string& name) {
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    return fail(ErrorKind::corrupt, "'{}' is not a saved machine", name);
  }
  if (load_le64(&bytes[file_hash_offset]) != XXH3_64bits(bytes.data(), file_hash_offset)) {
    return fail(ErrorKind::corrupt, "'{}' is damaged: its header has another hash", name);
  }
  const std::uint32_t version = load_le32(&bytes[version_offset]);
  if (version == state_version) return {};
  return fail(ErrorKind::unsupported,
              "'{}' is a saved machine of version {}, this program knows version {}", name, version,
              state_version);
}

std::array<std::byte, record_header_bytes> encode(const RecordHeader& header) {
  std::array<std::byte, record_header_bytes> bytes{};
  store_le16(bytes.data(), static_cast<std::uint16_t>(header.kind));
  store_le16(&bytes[2], header.version);
  store_le32(&bytes[4], header.instance);
  store_le64(&bytes[8], header.length);
  store_le64(&bytes[hashed_header_bytes], header.hash);
  return bytes;
}

RecordHeader decode_record_header(std::span<const std::byte, record_header_bytes> bytes) {
  return {.kind = static_cast<RecordKind>(load_le16(bytes.data())),
          .version = load_le16(&bytes[2]),
          .instance = load_le32(&bytes[4]),
          .length = load_le64(&bytes[8]),
          .hash = load_le64(&bytes[hashed_header_bytes])};
}

std::uint64_t hash_of(const RecordHeader& header, std::span<const std::byte> first,
                      std::span<const std::byte> second) {
  const auto bytes = encode(header);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, bytes.data(), hashed_header_bytes);
  XXH3_64bits_update(&state, first.data(), first.size());
  XXH3_64bits_update(&state, second.data(), second.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace tidepool::vmm
