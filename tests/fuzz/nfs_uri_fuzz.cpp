// NFS URIs: what is accepted names a server, a directory and one file, within bounds.
#include <string_view>

#include "blockdev/stores/nfs_uri.h"
#include "tests/fuzz/target.h"

namespace tidepool::test {

std::vector<Input> seeds() {
  std::vector<Input> inputs;
  for (std::string_view text :
       {"nfs://server/export/disk.img", "nfs://[::1]/a?version=4&nfsport=2050&uid=7&gid=8",
        "nfs://10.0.0.1//a//b/c?mountport=635&&version=3", "nfs://host/..", "nfs:///a",
        "nfs://h/a?version=", "nfs://h/a?uid=99999999999"}) {
    const auto bytes = std::as_bytes(std::span(text));
    inputs.emplace_back(bytes.begin(), bytes.end());
  }
  return inputs;
}

void run_one(std::span<const std::byte> input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const auto where = blockdev::parse_nfs_uri(text);
  if (!where) return require(!where.error().message.empty(), "an error says something");
  require(blockdev::is_nfs_uri(text), "it is one");
  require(!where->server.empty() && where->server.find('/') == std::string::npos, "a server");
  require(where->directory.starts_with('/'), "a directory from the root on");
  require(where->directory == "/" || !where->directory.ends_with('/'), "no end in a slash");
  require(!where->file.empty() && where->file.size() <= 255, "a file");
  require(where->file.find('/') == std::string::npos, "of one name");
  require(where->file != "." && where->file != "..", "that is no directory");
  for (const std::string& part : {where->server, where->directory, where->file})
    require(part.find('\0') == std::string::npos, "no zero byte, where C would cut it");
  require(where->version == 3 || where->version == 4, "a version");
  for (const int port : {where->nfs_port, where->mount_port})
    require(port >= 0 && port <= 65535, "a port");
  require(where->uid >= -1 && where->gid >= -1, "a user");
}

}  // namespace tidepool::test
