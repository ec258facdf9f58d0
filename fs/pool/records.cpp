#include "fs/pool/records.h"

#include <cstring>

#include "base/codec.h"

namespace tidepool::pool {

namespace {

enum class RecordType : std::uint8_t { node = 1, remove = 2, map = 3, unmap = 4 };

// Writes the type and a length that is filled in by finish().
std::size_t begin(std::vector<std::byte>& out, RecordType type) {
  Encoder e(out);
  e.u8(static_cast<std::uint8_t>(type));
  e.u32(0);
  return out.size();
}

void finish(std::vector<std::byte>& out, std::size_t start) {
  auto length = static_cast<std::uint32_t>(out.size() - start);
  std::memcpy(out.data() + start - sizeof length, &length, sizeof length);
}

Result<> decode_node(Decoder d, RecordSink& sink) {
  NodeRecord n;
  n.id = d.u64();
  n.parent = d.u64();
  std::uint8_t kind = d.u8();
  n.mode = d.u32();
  n.uid = d.u32();
  n.gid = d.u32();
  n.size = d.u64();
  n.times = {d.i64(), d.i64(), d.i64(), d.i64()};
  n.settings.quota = d.u64();
  n.settings.reserve = d.u64();
  std::uint8_t durability = d.u8();
  n.name = d.text();
  if (!d.ok() || !d.at_end()) return fail(ErrorKind::corrupt, "a node record has the wrong length");
  bool is_root = n.id == root_id;
  if (n.id == 0 || n.id >= node_id_limit || kind > static_cast<std::uint8_t>(NodeKind::disk) ||
      is_root != (kind == static_cast<std::uint8_t>(NodeKind::root)) || is_root != n.name.empty() ||
      n.name.size() > name_limit || n.name == "." || n.name == ".." ||
      n.name.find('/') != std::string::npos || n.name.find('\0') != std::string::npos ||
      n.mode > 07777 || durability > 1 || n.size > PackedExtent::block_limit * block_size ||
      n.settings.reserve > PackedExtent::block_limit * block_size)
    return fail(ErrorKind::corrupt, "the record of node {} has a field out of range", n.id);
  n.kind = static_cast<NodeKind>(kind);
  n.settings.durability = static_cast<Durability>(durability);
  return sink.node(n);
}

Result<> decode_map(Decoder d, RecordSink& sink) {
  NodeId disk = d.u64();
  if (d.remaining() % sizeof(PackedExtent) != 0)
    return fail(ErrorKind::corrupt, "a map record of disk {} has the wrong length", disk);
  while (!d.at_end()) {
    PackedExtent packed{d.u32(), d.u32(), d.u32()};
    if (auto r = sink.map(disk, packed.unpack()); !r) return r;
  }
  if (!d.ok()) return fail(ErrorKind::corrupt, "a map record of disk {} is cut short", disk);
  return {};
}

Result<> decode_one(RecordType type, Decoder d, RecordSink& sink) {
  switch (type) {
    case RecordType::node:
      return decode_node(d, sink);
    case RecordType::map:
      return decode_map(d, sink);
    case RecordType::remove: {
      NodeId id = d.u64();
      if (!d.ok() || !d.at_end()) break;
      return sink.remove(id);
    }
    case RecordType::unmap: {
      NodeId disk = d.u64();
      std::uint64_t block = d.u64(), count = d.u64();
      if (!d.ok() || !d.at_end() || block > PackedExtent::block_limit ||
          count > PackedExtent::block_limit)
        break;
      return sink.unmap(disk, block, count);
    }
  }
  return fail(ErrorKind::corrupt, "a record of type {} is unknown or malformed",
              static_cast<int>(type));
}

}  // namespace

void encode_node(std::vector<std::byte>& out, const NodeRecord& n) {
  std::size_t start = begin(out, RecordType::node);
  Encoder e(out);
  e.u64(n.id);
  e.u64(n.parent);
  e.u8(static_cast<std::uint8_t>(n.kind));
  e.u32(n.mode);
  e.u32(n.uid);
  e.u32(n.gid);
  e.u64(n.size);
  e.i64(n.times.access);
  e.i64(n.times.modify);
  e.i64(n.times.change);
  e.i64(n.times.birth);
  e.u64(n.settings.quota);
  e.u64(n.settings.reserve);
  e.u8(static_cast<std::uint8_t>(n.settings.durability));
  e.text(n.name);
  finish(out, start);
}

void encode_remove(std::vector<std::byte>& out, NodeId node) {
  std::size_t start = begin(out, RecordType::remove);
  Encoder(out).u64(node);
  finish(out, start);
}

void encode_map(std::vector<std::byte>& out, NodeId disk, std::span<const PackedExtent> extents) {
  std::size_t start = begin(out, RecordType::map);
  Encoder e(out);
  e.u64(disk);
  e.bytes(std::as_bytes(extents));
  finish(out, start);
}

void encode_unmap(std::vector<std::byte>& out, NodeId disk, std::uint64_t block,
                  std::uint64_t count) {
  std::size_t start = begin(out, RecordType::unmap);
  Encoder e(out);
  e.u64(disk);
  e.u64(block);
  e.u64(count);
  finish(out, start);
}

Result<std::uint64_t> decode_records(std::span<const std::byte> bytes, RecordSink& sink) {
  Decoder d(bytes);
  std::uint64_t records = 0;
  while (!d.at_end()) {
    auto type = static_cast<RecordType>(d.u8());
    auto payload = d.bytes(d.u32());
    if (!d.ok()) return fail(ErrorKind::corrupt, "a record is longer than what holds it");
    if (auto r = decode_one(type, Decoder(payload), sink); !r) return std::unexpected(r.error());
    ++records;
  }
  return records;
}

}  // namespace tidepool::pool
