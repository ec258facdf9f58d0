// A checkpoint page: as it comes, with its checksum made right, and with the input
// as its records.
#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fs/pool/checkpoint_format.h"
#include "tests/fuzz/replay.h"

namespace tidepool::test {

using namespace pool;

namespace {

constexpr std::uint64_t generation = 5, number = 0;

void judge(std::span<const std::byte> page) {
  auto records = decode_page(page, generation, number);
  if (records) replay(*records);
}

}  // namespace

std::vector<Input> seeds() {
  Input records = sample_records();
  PoolState state = empty_state();
  require(decode_records(records, state).has_value(), "the sample can be read");
  std::vector<std::string> findings, losses;
  require(state.finish_recovery(false, findings, losses).has_value(), "the sample is sound");
  Input snapshot = snapshot_of(state), page(page_bytes);
  encode_page(page, generation, number, snapshot);
  page.resize(page_header_bytes + snapshot.size());  // the rest is zeros
  return {records, snapshot, page};
}

void run_one(std::span<const std::byte> input) {
  judge(input);
  Input page(page_bytes);
  std::copy_n(input.begin(), std::min(input.size(), page.size()), page.begin());
  judge(page);
  std::uint64_t hash = XXH3_64bits(page.data() + sizeof hash, page.size() - sizeof hash);
  std::memcpy(page.data(), &hash, sizeof hash);
  judge(page);
  auto records = input.first(std::min(input.size(), page_payload_bytes));
  encode_page(page, generation, number, records);
  auto back = decode_page(page, generation, number);
  require(back && std::ranges::equal(*back, records), "a page holds its records");
  replay(*back);
}

}  // namespace tidepool::test
