// Which parts of a disk were given back by us and not written since: what is known of holes on
// a server that cannot be asked. Right only while nobody else writes to the disk.
//
// A discard that is under way counts once it has ended well, without what a write touched
// meanwhile: who of two that overlap was first is not known. What is said to be a hole is one;
// other holes there may be, too. Pure: no I/O, no lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>

namespace tidepool::blockdev {

class KnownHoles {
 public:
  static constexpr std::size_t most = 65'536;  // ranges; what would be more is not kept

  // A discard of [begin, end), in bytes, is sent, and has ended. `key` is not another's
  // that is under way.
  void discarding(const void* key, std::uint64_t begin, std::uint64_t end);
  void discarded(const void* key, bool well);
  // Something else is written there: before it is sent, and again when it has ended.
  void written(std::uint64_t begin, std::uint64_t end);

  bool empty() const { return holes_.empty() && under_way_.empty(); }
  std::size_t size() const { return holes_.size(); }  // ranges
  // Calls `sink` for consecutive parts of [begin, end) until it returns false.
  void each(
      std::uint64_t begin, std::uint64_t end,
      const std::function<bool(std::uint64_t begin, std::uint64_t end, bool hole)>& sink) const;

 private:
  using Ranges = std::map<std::uint64_t, std::uint64_t>;  // begin -> end; apart from each other
  static void add(Ranges& ranges, std::uint64_t begin, std::uint64_t end);
  static void cut(Ranges& ranges, std::uint64_t begin, std::uint64_t end);

  Ranges holes_;
  std::map<const void*, Ranges> under_way_;
};

}  // namespace tidepool::blockdev
