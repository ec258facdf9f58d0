// What the kernel's FUSE interface has and older <linux/fuse.h> lack.
//
// From the kernel's documented user interface (include/uapi/linux/fuse.h,
// Documentation/filesystems/fuse/fuse-io-uring.rst); facts, never renumbered.
// Names of our own, so that a newer header does not collide.
#pragma once

#include <cstdint>

namespace tidepool::elasticfs::abi {

// INIT flags, as one 64-bit word (flags | flags2 << 32).
inline constexpr std::uint64_t init_ext = 1ULL << 30;
inline constexpr std::uint64_t handle_killpriv_v2 = 1ULL << 28;
inline constexpr std::uint64_t direct_io_allow_mmap = 1ULL << 36;
inline constexpr std::uint64_t over_io_uring = 1ULL << 41;

// open_flags of OPEN and CREATE replies.
inline constexpr std::uint32_t open_parallel_direct_writes = 1U << 6;

// FUSE over io_uring: commands of IORING_OP_URING_CMD on the FUSE device.
inline constexpr std::uint32_t uring_register = 1;
inline constexpr std::uint32_t uring_commit_and_fetch = 2;

struct UringCommand {  // in the wide part of the submission entry
  std::uint64_t flags = 0;
  std::uint64_t commit_id = 0;
  std::uint16_t queue = 0;
  std::uint8_t padding[6] = {};
};
static_assert(sizeof(UringCommand) == 24);

struct UringEntry {
  std::uint64_t flags;
  std::uint64_t commit_id;
  std::uint32_t payload_size;
  std::uint32_t padding;
  std::uint64_t reserved;
};

struct UringHeaders {        // shared with the kernel, one per ring entry
  std::byte message[128];    // fuse_in_header in, fuse_out_header out
  std::byte operation[128];  // the operation's own header, in
  UringEntry entry;
};
static_assert(sizeof(UringHeaders) == 288);

}  // namespace tidepool::elasticfs::abi
