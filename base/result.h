// The one error type of the project, and the Result that carries it.
//
// An Error has a kind to branch on, the errno a system edge (FUSE, NBD, SCSI)
// answers with, and a message for the human: it names the object, the cause
// and, where there is one, the remedy. An error is worded and reported once,
// where it is detected; callers pass it on unchanged or add the object's name.
#pragma once

#include <fmt/format.h>

#include <expected>
#include <string>
#include <utility>

namespace tidepool {

enum class ErrorKind {
  invalid_argument,  // the caller asked for something that makes no sense
  not_found,
  exists,
  busy,         // in use by another owner
  no_space,     // pool, quota or format limit reached
  corrupt,      // stored bytes fail their checksum or their bounds
  unsupported,  // understood, but not offered (also: a newer format version)
  permission,
  io,  // the system call or the device failed
};

struct Error {
  ErrorKind kind = ErrorKind::io;
  int errno_value = 0;  // positive errno for the edges; never 0 in a real error
  std::string message;
};

template <class T = void>
using Result = std::expected<T, Error>;

// The errno that stands for a kind when no system call gave one.
int default_errno(ErrorKind kind);

template <class... Args>
std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> text, Args&&... args) {
  return std::unexpected(
      Error{kind, default_errno(kind), fmt::format(text, std::forward<Args>(args)...)});
}

// For a failed system call: kind io unless the errno says more (ENOENT, EACCES,
// ENOSPC, EBUSY, ...); ": <strerror>" is appended to the message.
std::unexpected<Error> fail_errno(int errno_value, std::string what);

}  // namespace tidepool
