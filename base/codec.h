// Bounds-checked little-endian encoding by hand, for every format and protocol.
//
// Encoder appends to a byte vector it borrows. Decoder walks a borrowed span; a
// read past the end, or an absurd length, sets the failed state, after which all
// reads give zeros: check ok() once, at the end of a record.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool {

static_assert(std::endian::native == std::endian::little, "formats are stored little-endian");

class Encoder {
 public:
  explicit Encoder(std::vector<std::byte>& out) : out_(out) {}

  void u8(std::uint8_t v) { put(&v, sizeof v); }
  void u16(std::uint16_t v) { put(&v, sizeof v); }
  void u32(std::uint32_t v) { put(&v, sizeof v); }
  void u64(std::uint64_t v) { put(&v, sizeof v); }
  void i64(std::int64_t v) { put(&v, sizeof v); }
  void bytes(std::span<const std::byte> v) { put(v.data(), v.size()); }
  void text(std::string_view v) {  // at most 65,535 bytes
    u16(static_cast<std::uint16_t>(v.size()));
    put(v.data(), v.size());
  }

 private:
  void put(const void* data, std::size_t size) {
    const auto* from = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), from, from + size);
  }
  std::vector<std::byte>& out_;
};

class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> in) : in_(in) {}

  bool ok() const { return ok_; }
  bool at_end() const { return in_.empty(); }
  std::size_t remaining() const { return in_.size(); }

  std::uint8_t u8() { return get<std::uint8_t>(); }
  std::uint16_t u16() { return get<std::uint16_t>(); }
  std::uint32_t u32() { return get<std::uint32_t>(); }
  std::uint64_t u64() { return get<std::uint64_t>(); }
  std::int64_t i64() { return get<std::int64_t>(); }
  std::span<const std::byte> bytes(std::size_t count) {
    if (count > in_.size()) {
      ok_ = false;
      in_ = {};
      return {};
    }
    auto taken = in_.first(count);
    in_ = in_.subspan(count);
    return taken;
  }
  std::string_view text() {
    auto taken = bytes(u16());
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

 private:
  template <class T>
  T get() {
    T value = 0;
    auto taken = bytes(sizeof(T));
    if (!taken.empty()) std::memcpy(&value, taken.data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> in_;
  bool ok_ = true;
};

}  // namespace tidepool
