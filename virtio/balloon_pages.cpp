#include "virtio/balloon_pages.h"

#include <algorithm>

#include "base/byte_order.h"
#include "base/checked.h"

namespace tidepool::virtio {

std::optional<std::vector<PageRun>> runs_of_pages(std::span<const std::byte> numbers,
                                                  const GuestMemory& memory) {
  if (numbers.size() % page_number_bytes != 0) return std::nullopt;
  std::vector<std::uint32_t> pages;
  pages.reserve(numbers.size() / page_number_bytes);
  for (std::size_t at = 0; at < numbers.size(); at += page_number_bytes)
    pages.push_back(load_le32(&numbers[at]));
  std::ranges::sort(pages);
  pages.erase(std::ranges::unique(pages).begin(), pages.end());
  std::vector<PageRun> runs;
  for (const std::uint32_t page : pages) {
    const std::uint64_t address = page * guest_page;
    if (memory.at(address, guest_page) == nullptr) return std::nullopt;
    if (!runs.empty()) {
      PageRun& last = runs.back();
      if (last.address + last.length == address &&
          memory.at(last.address, last.length + guest_page) != nullptr) {
        last.length += guest_page;
        continue;
      }
    }
    runs.push_back({address, guest_page});
  }
  return runs;
}

PageRun whole_pages(std::uint64_t address, std::uint64_t length) {
  const std::uint64_t begin = round_up(address, guest_page);
  const std::uint64_t end = round_down(address + length, guest_page);
  return begin < end ? PageRun{begin, end - begin} : PageRun{};
}

}  // namespace tidepool::virtio
