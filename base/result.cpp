#include "base/result.h"

#include <cerrno>
#include <cstring>

namespace tidepool {

int default_errno(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      return EINVAL;
    case ErrorKind::not_found:
      return ENOENT;
    case ErrorKind::exists:
      return EEXIST;
    case ErrorKind::busy:
      return EBUSY;
    case ErrorKind::no_space:
      return ENOSPC;
    case ErrorKind::corrupt:
      return EUCLEAN;
    case ErrorKind::unsupported:
      return EOPNOTSUPP;
    case ErrorKind::permission:
      return EACCES;
    case ErrorKind::io:
      break;
  }
  return EIO;
}

namespace {

ErrorKind kind_of(int errno_value) {
  switch (errno_value) {
    case EINVAL:
    case ENAMETOOLONG:
      return ErrorKind::invalid_argument;
    case ENOENT:
    case ENOTDIR:
      return ErrorKind::not_found;
    case EEXIST:
    case ENOTEMPTY:
      return ErrorKind::exists;
    case EBUSY:
    case ETXTBSY:
      return ErrorKind::busy;
    case ENOSPC:
    case EDQUOT:
      return ErrorKind::no_space;
    case EUCLEAN:
      return ErrorKind::corrupt;
    case EOPNOTSUPP:
    case ENOSYS:
      return ErrorKind::unsupported;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorKind::permission;
    default:
      return ErrorKind::io;
  }
}

}  // namespace

std::unexpected<Error> fail_errno(int errno_value, std::string what) {
  if (errno_value == 0) errno_value = EIO;
  char text[128];
  what += ": ";
  what += strerror_r(errno_value, text, sizeof text);  // the GNU variant: returns the text
  return std::unexpected(Error{kind_of(errno_value), errno_value, std::move(what)});
}

}  // namespace tidepool
