// What has a fixed size, in records: its length, then its bytes. The kernel's structures
// as linux/kvm.h has them: they are its interface and never change their meaning.
#pragma once

#include <cstring>
#include <span>
#include <type_traits>

#include "base/codec.h"

namespace tidepool::vmm {

template <class T>
void put_blob(Encoder& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.u32(sizeof value);
  out.bytes(std::as_bytes(std::span(&value, 1)));
}

// False, and the value as it was: it is not there, or has another length.
template <class T>
bool take_blob(Decoder& in, T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (in.u32() != sizeof value) return false;
  const auto bytes = in.bytes(sizeof value);
  if (bytes.size() != sizeof value) return false;
  std::memcpy(&value, bytes.data(), sizeof value);
  return true;
}

}  // namespace tidepool::vmm
