// The records that a machine is saved as (state_format.md): how one is framed, and the
// header of a file of them. Pure.
//
// A record says what it is, which one of its kind, and in which version; a hash covers
// that and its content. Whoever reads one hashes it before anything in it is used.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace tidepool::vmm {

// The numbers never change their meaning. In a file they come in this order.
enum class RecordKind : std::uint16_t {
  setup = 1,     // what the machine was started with
  board = 2,     // clock, interrupt controllers, serial port and the like
  vcpu = 3,      // one each
  function = 4,  // a PCI function with its virtio device, one each
  memory = 5,    // a run of pages, one each; pages of zeros are in none
  end = 6,
};

inline constexpr std::uint32_t state_version = 2;  // of the file
inline constexpr std::uint16_t record_version = 1;
inline constexpr std::size_t file_header_bytes = 24, record_header_bytes = 24;
inline constexpr std::uint64_t most_record_bytes = 4ULL << 20;  // of its content

struct RecordHeader {
  RecordKind kind = RecordKind::end;
  std::uint16_t version = record_version;
  std::uint32_t instance = 0;
  std::uint64_t length = 0;  // bytes of content
  std::uint64_t hash = 0;
};

std::array<std::byte, file_header_bytes> encode_file_header();
// name: of the file, for messages.
Result<> check_file_header(std::span<const std::byte, file_header_bytes> bytes,
                           const std::string& name);

std::array<std::byte, record_header_bytes> encode(const RecordHeader& header);
RecordHeader decode_record_header(std::span<const std::byte, record_header_bytes> bytes);

// Of a record whose content comes in two pieces.
std::uint64_t hash_of(const RecordHeader& header, std::span<const std::byte> first,
                      std::span<const std::byte> second);

}  // namespace tidepool::vmm
