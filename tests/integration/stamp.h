// Sectors that say what they are.
//
// A stamped sector of 512 bytes holds its owner's mark in every second word and
// its place and generation in between, so that any 16 bytes of it, found anywhere,
// name the owner; and a sector that is torn, moved or old is told apart.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace judge {

inline constexpr std::size_t sector_size = 512;
inline constexpr std::size_t sector_words = sector_size / 8;

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline std::uint64_t mark_of(std::string_view owner) {
  std::uint64_t mark = 0x7469646570306f6cu;
  for (const char c : owner) mark = mix(mark, static_cast<unsigned char>(c));
  return mark;
}

struct Stamp {
  std::uint64_t mark = 0, sector = 0, generation = 0;
};

inline void write_stamp(unsigned char* to, const Stamp& stamp) {
  std::array<std::uint64_t, sector_words> words;
  for (std::size_t i = 0; i < sector_words; i += 2) {
    words[i] = stamp.mark;
    words[i + 1] = mix(mix(stamp.mark, stamp.sector), stamp.generation + i);
  }
  words[1] = stamp.sector;
  words[3] = stamp.generation;
  std::memcpy(to, words.data(), sector_size);
}

// What a sector claims to be; is_stamp() tells whether all of it agrees.
inline Stamp read_stamp(const unsigned char* from) {
  std::array<std::uint64_t, 4> words;
  std::memcpy(words.data(), from, sizeof words);
  return {words[0], words[1], words[3]};
}

inline bool is_stamp(const unsigned char* from, const Stamp& stamp) {
  unsigned char want[sector_size];
  write_stamp(want, stamp);
  return std::memcmp(from, want, sector_size) == 0;
}

inline bool all_zero(const unsigned char* data, std::size_t size) {
  return size == 0 || (data[0] == 0 && std::memcmp(data, data + 1, size - 1) == 0);
}

}  // namespace judge
