// The records of which journal and checkpoint are made (pool_format.md).
//
// Pure codec. A record says what is so afterwards, never how to change what was,
// so replaying one twice gives the same state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "blockdev/extent_map.h"
#include "fs/pool/pool.h"

namespace tidepool::pool {

using blockdev::Extent;
using blockdev::ExtentMap;
using blockdev::PackedExtent;

struct NodeRecord {
  NodeId id = 0;
  NodeId parent = 0;
  NodeKind kind = NodeKind::disk;
  std::uint32_t mode = 0, uid = 0, gid = 0;
  std::uint64_t size = 0;  // disk
  Times times;
  VmSettings settings;  // VM
  std::string name;     // empty for the root
};

// The bytes a map record of `extents` extents takes.
constexpr std::size_t map_record_bytes(std::size_t extents) { return 5 + 8 + extents * 12; }

void encode_node(std::vector<std::byte>& out, const NodeRecord& node);
void encode_remove(std::vector<std::byte>& out, NodeId node);
void encode_map(std::vector<std::byte>& out, NodeId disk, std::span<const PackedExtent> extents);
void encode_unmap(std::vector<std::byte>& out, NodeId disk, std::uint64_t block,
                  std::uint64_t count);

class RecordSink {
 public:
  virtual ~RecordSink() = default;
  virtual Result<> node(const NodeRecord& node) = 0;  // new, or replaces what it was
  virtual Result<> remove(NodeId node) = 0;
  virtual Result<> map(NodeId disk, const Extent& extent) = 0;  // replaces what was mapped there
  virtual Result<> unmap(NodeId disk, std::uint64_t block, std::uint64_t count) = 0;
};

// Checks every field against its bounds; stops at the first error, which says
// what is wrong but not where (the caller knows the file and the place).
// Returns the number of records.
Result<std::uint64_t> decode_records(std::span<const std::byte> bytes, RecordSink& sink);

}  // namespace tidepool::pool
