// Records, and the checkpoint pages that hold them.
#include "fs/pool/records.h"

#include <gtest/gtest.h>

#include <random>
#include <variant>

#include "base/codec.h"
#include "fs/pool/checkpoint_format.h"

namespace tidepool::pool {
namespace {

using Bytes = std::vector<std::byte>;

// Keeps what it is told, as text that compares easily.
struct Recorder : RecordSink {
  std::vector<std::string> seen;
  std::vector<NodeRecord> nodes;
  Result<> node(const NodeRecord& n) override {
    nodes.push_back(n);
    seen.push_back(fmt::format("node {}", n.id));
    return {};
  }
  Result<> remove(NodeId id) override {
    seen.push_back(fmt::format("remove {}", id));
    return {};
  }
  Result<> map(NodeId disk, const Extent& e) override {
    seen.push_back(fmt::format("map {}: {} {} {} {}", disk, e.block, e.physical, e.count, e.unwritten));
    return {};
  }
  Result<> unmap(NodeId disk, std::uint64_t block, std::uint64_t count) override {
    seen.push_back(fmt::format("unmap {}: {} {}", disk, block, count));
    return {};
  }
};

NodeRecord disk_record() {
  NodeRecord n;
  n.id = 9;
  n.parent = 5;
  n.kind = NodeKind::disk;
  n.mode = 0640;
  n.uid = 1000;
  n.gid = 0xffff'ffff;
  n.size = PackedExtent::block_limit * block_size;
  n.times = {1, -2, 3, INT64_MAX};
  n.name = std::string(name_limit, 'x');
  return n;
}

TEST(Records, RoundTrip) {
  Bytes bytes;
  NodeRecord root{.id = root_id, .kind = NodeKind::root, .mode = 0755};
  NodeRecord vm{.id = 5, .parent = root_id, .kind = NodeKind::vm, .mode = 0700, .name = "vm"};
  vm.settings = {1 << 20, 1 << 19, Durability::scratch};
  NodeRecord disk = disk_record();
  for (const NodeRecord* n : {&root, &vm, &disk}) encode_node(bytes, *n);
  PackedExtent extents[] = {PackedExtent::pack({1, 2, 3, false}),
                            PackedExtent::pack({PackedExtent::block_limit - 1, 7, 1, true})};
  std::size_t before = bytes.size();
  encode_map(bytes, 9, extents);
  EXPECT_EQ(bytes.size() - before, map_record_bytes(2));
  encode_unmap(bytes, 9, PackedExtent::block_limit, 12);
  encode_remove(bytes, 9);

  Recorder sink;
  auto records = decode_records(bytes, sink);
  ASSERT_TRUE(records) << records.error().message;
  EXPECT_EQ(*records, 6U);
  EXPECT_EQ(sink.seen, (std::vector<std::string>{"node 1", "node 5", "node 9", "map 9: 1 2 3 false",
                                                 "map 9: 1099511627775 7 1 true",
                                                 "unmap 9: 1099511627776 12", "remove 9"}));
  const NodeRecord& d = sink.nodes[2];
  EXPECT_EQ(d.parent, disk.parent);
  EXPECT_EQ(d.kind, disk.kind);
  EXPECT_EQ(d.mode, disk.mode);
  EXPECT_EQ(d.uid, disk.uid);
  EXPECT_EQ(d.gid, disk.gid);
  EXPECT_EQ(d.size, disk.size);
  EXPECT_EQ(d.times.access, 1);
  EXPECT_EQ(d.times.modify, -2);
  EXPECT_EQ(d.times.change, 3);
  EXPECT_EQ(d.times.birth, INT64_MAX);
  EXPECT_EQ(d.name, disk.name);
  EXPECT_EQ(sink.nodes[1].settings.quota, 1U << 20);
  EXPECT_EQ(sink.nodes[1].settings.reserve, 1U << 19);
  EXPECT_EQ(sink.nodes[1].settings.durability, Durability::scratch);
}

ErrorKind error_of(const Bytes& bytes) {
  Recorder sink;
  auto records = decode_records(bytes, sink);
  return records ? ErrorKind::exists : records.error().kind;
}

TEST(Records, CutShortAnywhereIsCorrupt) {
  Bytes bytes;
  encode_node(bytes, disk_record());
  for (std::size_t size = 1; size < bytes.size(); ++size)
    EXPECT_EQ(error_of(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))),
              ErrorKind::corrupt)
        << size;
}

TEST(Records, FieldsOutOfBoundsAreCorrupt) {
  auto with = [](auto change) {
    NodeRecord n = disk_record();
    change(n);
    Bytes bytes;
    encode_node(bytes, n);
    return error_of(bytes);
  };
  EXPECT_EQ(with([](NodeRecord&) {}), ErrorKind::exists);  // none
  EXPECT_EQ(with([](NodeRecord& n) { n.id = 0; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.id = root_id; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.id = ~std::uint64_t{0}; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.kind = static_cast<NodeKind>(3); }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.kind = NodeKind::root; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.mode = 010000; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.size += 1; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.settings.durability = static_cast<Durability>(2); }),
            ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.settings.reserve = ~std::uint64_t{0}; }),
            ErrorKind::corrupt);
  for (const char* name : {"", ".", "..", "a/b"})
    EXPECT_EQ(with([&](NodeRecord& n) { n.name = name; }), ErrorKind::corrupt) << name;
  EXPECT_EQ(with([](NodeRecord& n) { n.name += 'x'; }), ErrorKind::corrupt);
  EXPECT_EQ(with([](NodeRecord& n) { n.name[3] = '\0'; }), ErrorKind::corrupt);

  Bytes far;
  encode_unmap(far, 9, PackedExtent::block_limit + 1, 1);
  EXPECT_EQ(error_of(far), ErrorKind::corrupt);
  Bytes long_one;
  encode_unmap(long_one, 9, 0, ~std::uint64_t{0});
  EXPECT_EQ(error_of(long_one), ErrorKind::corrupt);
}

TEST(Records, UnknownOnesAndWrongLengthsAreCorrupt) {
  auto record = [](std::uint8_t type, std::size_t length) {
    Bytes bytes;
    Encoder e(bytes);
    e.u8(type);
    e.u32(static_cast<std::uint32_t>(length));
    bytes.resize(bytes.size() + length);
    return bytes;
  };
  EXPECT_EQ(error_of(record(0, 8)), ErrorKind::corrupt);
  EXPECT_EQ(error_of(record(5, 8)), ErrorKind::corrupt);
  EXPECT_EQ(error_of(record(2, 7)), ErrorKind::corrupt);  // remove
  EXPECT_EQ(error_of(record(2, 9)), ErrorKind::corrupt);
  EXPECT_EQ(error_of(record(3, 8 + 13)), ErrorKind::corrupt);  // map: not whole extents
  EXPECT_EQ(error_of(record(3, 4)), ErrorKind::corrupt);
  EXPECT_EQ(error_of(record(4, 16)), ErrorKind::corrupt);  // unmap
}

TEST(Records, StopAtTheFirstErrorOfTheSink) {
  struct Refusing : Recorder {
    Result<> remove(NodeId) override { return fail(ErrorKind::corrupt, "refused"); }
  } sink;
  Bytes bytes;
  encode_unmap(bytes, 3, 0, 1);
  encode_remove(bytes, 3);
  encode_unmap(bytes, 4, 0, 1);
  EXPECT_EQ(decode_records(bytes, sink).error().message, "refused");
  EXPECT_EQ(sink.seen, std::vector<std::string>{"unmap 3: 0 1"});
}

struct CheckpointPage : testing::Test {
  CheckpointPage() {
    std::mt19937 random(1);
    for (auto& byte : records) byte = static_cast<std::byte>(random());
    encode_page(page, 12, 3, records);
  }
  Bytes records = Bytes(5000);
  Bytes page = Bytes(page_bytes);
};

TEST_F(CheckpointPage, RoundTrip) {
  auto out = decode_page(page, 12, 3);
  ASSERT_TRUE(out) << out.error().message;
  EXPECT_EQ(Bytes(out->begin(), out->end()), records);
  for (std::size_t size : {std::size_t{0}, page_payload_bytes}) {
    Bytes full(size, std::byte{7});
    encode_page(page, 12, 3, full);
    ASSERT_TRUE(decode_page(page, 12, 3));
    EXPECT_EQ(decode_page(page, 12, 3)->size(), size);
  }
}

TEST_F(CheckpointPage, AnotherGenerationOrPlaceIsCorrupt) {
  EXPECT_EQ(decode_page(page, 11, 3).error().kind, ErrorKind::corrupt);
  EXPECT_EQ(decode_page(page, 13, 3).error().kind, ErrorKind::corrupt);
  EXPECT_EQ(decode_page(page, 12, 2).error().kind, ErrorKind::corrupt);
  EXPECT_EQ(decode_page(std::span(page).first(4096), 12, 3).error().kind, ErrorKind::corrupt);
}

TEST_F(CheckpointPage, EveryFlippedBitIsSeen) {
  std::mt19937 random(2);
  for (std::size_t i = 0; i < 4000; ++i) {  // all of the header, then anywhere
    std::size_t bit = i < page_header_bytes * 8 ? i : random() % (page_bytes * 8);
    page[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_EQ(decode_page(page, 12, 3).error().kind, ErrorKind::corrupt) << "bit " << bit;
    page[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  EXPECT_TRUE(decode_page(page, 12, 3));
}

}  // namespace
}  // namespace tidepool::pool
