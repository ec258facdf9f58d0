// A directory of small files: what is kept beside a disk, on this host or on a server.
//
// Every change is stable when it returns. Blocking; one thread at a time. Errors name the
// file; the kinds not_found and exists mean what they say. After any other error a change
// may have been made or not, or be made a little later.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace tidepool::blockdev {

class Directory {
 public:
  virtual ~Directory() = default;
  virtual const std::string& name() const = 0;  // a path or URI
  virtual Result<> make() = 0;                  // unless it is there
  virtual Result<std::vector<std::string>> list() = 0;
  virtual Result<std::vector<std::byte>> read(const std::string& file, std::size_t most) = 0;
  // Only if it is not there; of two that try, one does. Others may see it empty before it
  // has its content.
  virtual Result<> create(const std::string& file, std::span<const std::byte> data) = 0;
  // As create(), but others see it with all its content, or not.
  virtual Result<> publish(const std::string& file, std::span<const std::byte> data) = 0;
  // In place, from the beginning; what is behind stays. The file must be there.
  virtual Result<> overwrite(const std::string& file, std::span<const std::byte> data) = 0;
  // Others see the old content or the new one. The file need not be there.
  virtual Result<> replace(const std::string& file, std::span<const std::byte> data) = 0;
  virtual Result<> remove(const std::string& file) = 0;
};

// path: need not be there.
std::unique_ptr<Directory> local_directory(const std::string& path);

}  // namespace tidepool::blockdev
