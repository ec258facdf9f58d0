// A journal: as it comes, with the checksums of its sectors made right, and a batch
// with the input as its records.
#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blockdev/journal_format.h"
#include "tests/fuzz/replay.h"

namespace tidepool::test {

using namespace blockdev;
using namespace pool;

namespace {

constexpr std::uint64_t salt = 7, batch = 3;

Input encoded(std::uint64_t number, std::span<const std::byte> records) {
  Input out(batch_bytes(records.size()));
  encode_batch(out, salt, number, records);
  return out;
}

void judge(std::span<const std::byte> journal) {
  Input records;
  std::uint64_t at = 0, number = batch;
  for (;;) {
    auto size = decode_batch(journal.subspan(at), salt, number, records);
    holds_later_batch(journal.subspan(at), salt, number);
    if (!size || *size == 0) break;
    require(*size % journal_unit_bytes == 0, "a batch is whole units");
    // The last one may lack what fills up its last unit.
    at = std::min<std::uint64_t>(at + *size, journal.size());
    ++number;
    replay(records);
  }
}

}  // namespace

std::vector<Input> seeds() {
  Input records = sample_records();
  Input one = encoded(batch, records), next = encoded(batch + 1, std::span(records).first(200));
  Input two = one;
  two.insert(two.end(), next.begin(), next.end());
  return {records, one, two, Input(journal_unit_bytes)};
}

void run_one(std::span<const std::byte> input) {
  judge(input);
  Input sealed(input.begin(), input.end());
  for (std::size_t at = 0; at + journal_sector_bytes <= sealed.size(); at += journal_sector_bytes) {
    std::uint64_t hash =
        XXH3_64bits_withSeed(&sealed[at + sizeof hash], journal_sector_bytes - sizeof hash, salt);
    std::memcpy(&sealed[at], &hash, sizeof hash);
  }
  judge(sealed);
  if (input.empty()) return;
  Input records;
  auto size = decode_batch(encoded(batch, input), salt, batch, records);
  require(size && *size == batch_bytes(input.size()), "a batch can be read");
  require(std::ranges::equal(records, input), "and holds its records");
  replay(records);
}

}  // namespace tidepool::test
