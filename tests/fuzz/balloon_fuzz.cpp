// Page numbers as a balloon's driver may give them: every run lies in guest memory, no page
// is in two of them, and none is lost.
#include <set>

#include "base/byte_order.h"
#include "tests/fuzz/target.h"
#include "virtio/balloon_pages.h"

namespace tidepool::test {

using namespace virtio;

namespace {

// Two regions that meet in the guest and not here, and one far away.
std::shared_ptr<const GuestMemory> memory() {
  static std::byte first[16 * guest_page], second[16 * guest_page], third[16 * guest_page];
  auto made = GuestMemory::create({{0, sizeof first, first},
                                   {sizeof first, sizeof second, second},
                                   {std::uint64_t{0xffff0} * guest_page, sizeof third, third}});
  require(made.has_value(), "memory");
  return *made;
}

Input numbers(std::initializer_list<std::uint32_t> pages) {
  Input input(pages.size() * page_number_bytes);
  std::size_t at = 0;
  for (const std::uint32_t page : pages) {
    store_le32(&input[at], page);
    at += page_number_bytes;
  }
  return input;
}

}  // namespace

std::vector<Input> seeds() {
  return {numbers({1, 2, 3}),     numbers({3, 1, 2, 2}), numbers({15, 16}),
          numbers({31, 32}),      numbers({0xfffff}),    numbers({0xffff0, 0}),
          numbers({0x100000, 7}), numbers({0xffffffff}), {}};
}

void run_one(std::span<const std::byte> input) {
  static const auto guest = memory();
  std::set<std::uint64_t> named;
  bool all_there = input.size() % page_number_bytes == 0;
  for (std::size_t at = 0; at + page_number_bytes <= input.size(); at += page_number_bytes) {
    const std::uint64_t address = load_le32(&input[at]) * guest_page;
    all_there = all_there && guest->at(address, guest_page) != nullptr;
    named.insert(address);
  }
  const auto runs = runs_of_pages(input, *guest);
  require(runs.has_value() == all_there, "a page elsewhere is refused");
  if (!runs) return;
  for (const PageRun& run : *runs) {
    require(guest->at(run.address, run.length) != nullptr, "a run is in guest memory");
    for (std::uint64_t at = 0; at < run.length; at += guest_page)
      require(named.erase(run.address + at) == 1, "a page that was named, once");
  }
  require(named.empty(), "no page is lost");
}

}  // namespace tidepool::test
