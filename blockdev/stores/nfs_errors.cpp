#include "blockdev/stores/nfs_errors.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace tidepool::blockdev {

namespace {

using Remedy = NfsError::Remedy;

// Sorted by status.
constexpr std::array<NfsError, 41> table{{
    {1, EPERM, Remedy::none, "not permitted"},
    {2, ENOENT, Remedy::none, "no such file or directory"},
    {5, EIO, Remedy::none, "the server's I/O failed"},
    {6, ENXIO, Remedy::none, "no such device"},
    {13, EACCES, Remedy::none, "permission denied (does the export map this user to another?)"},
    {17, EEXIST, Remedy::none, "it exists"},
    {18, EXDEV, Remedy::none, "it crosses file systems"},
    {19, ENODEV, Remedy::none, "no such device"},
    {20, ENOTDIR, Remedy::none, "not a directory"},
    {21, EISDIR, Remedy::none, "it is a directory"},
    {22, EINVAL, Remedy::none, "an argument is invalid"},
    {27, EFBIG, Remedy::none, "the file is too large"},
    {28, ENOSPC, Remedy::none, "no space left on the server"},
    {30, EROFS, Remedy::none, "the export is read-only"},
    {31, EMLINK, Remedy::none, "too many links"},
    {63, ENAMETOOLONG, Remedy::none, "the name is too long"},
    {66, ENOTEMPTY, Remedy::none, "the directory is not empty"},
    {69, EDQUOT, Remedy::none, "the quota on the server is used up"},
    {70, ESTALE, Remedy::none, "the file was removed on the server"},
    {71, EREMOTE, Remedy::none, "too many levels of remote"},
    {10001, ESTALE, Remedy::none, "the server does not know its own file handle any more"},
    {10002, EIO, Remedy::none, "out of step"},
    {10004, EOPNOTSUPP, Remedy::none, "the server does not offer this"},
    {10005, EIO, Remedy::none, "too small"},
    {10006, EIO, Remedy::none, "the server failed"},
    {10008, EAGAIN, Remedy::later, "the server wants to be asked later"},
    {10011, EIO, Remedy::reconnect, "the lease has expired"},
    {10012, EAGAIN, Remedy::later, "the file is locked by another client"},
    {10013, EAGAIN, Remedy::later, "the server has started and is in its grace period"},
    {10014, ESTALE, Remedy::none, "the file handle has expired"},
    {10015, EAGAIN, Remedy::later, "another client denies sharing the file"},
    {10016, EACCES, Remedy::none, "the export wants another kind of authentication"},
    {10018, EAGAIN, Remedy::later, "the server is short of resources"},
    {10019, EREMOTE, Remedy::none, "the file was moved to another server"},
    {10021, EPROTONOSUPPORT, Remedy::none, "the server does not speak this version"},
    {10022, EIO, Remedy::reconnect, "the server was restarted"},
    {10023, EIO, Remedy::reconnect, "the server was restarted"},
    {10029, ELOOP, Remedy::none, "it is a symbolic link"},
    {10038, EACCES, Remedy::none, "it is open in another way"},
    {10044, EOPNOTSUPP, Remedy::none, "the server does not know this operation"},
    {10046, EAGAIN, Remedy::later, "the file is open elsewhere"},
}};
static_assert(std::ranges::is_sorted(table, {}, &NfsError::status));

}  // namespace

NfsError nfs_error(std::uint32_t status) {
  const auto found = std::ranges::lower_bound(table, status, {}, &NfsError::status);
  if (found != table.end() && found->status == status) return *found;
  return {status, EIO, Remedy::none, "an error that is not known here"};
}

}  // namespace tidepool::blockdev
