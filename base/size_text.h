// Sizes as people write and read them: "10G", "1.5T", "512M" in; "1.5 GiB" out.
//
// Suffixes are powers of 1024 (K, M, G, T, P, E; "KiB" and the like mean the
// same). "KB" and the like are refused: they mean 1000 to some and 1024 to
// others.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool {

// Bytes. A fraction of a byte is cut off; what does not fit 64 bits is refused.
Result<std::uint64_t> parse_size(std::string_view text);

// At most one decimal: "512 B", "1 KiB", "1.5 GiB".
std::string format_size(std::uint64_t bytes);

// Nothing rounded, for sizes that are compared or typed again: "40 GiB", "41203 MiB".
std::string format_size_exactly(std::uint64_t bytes);

}  // namespace tidepool
