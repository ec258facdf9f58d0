// Asking a chain that is being served: its figures, a checkpoint.
//
// HTTP and JSON on a Unix socket (base/control_socket.h), found by the path of the
// top layer: GET /v1/info; POST /v1/checkpoint with "name" and "file".
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/control_socket.h"
#include "blockdev/chain/chain.h"

namespace tidepool::blockdev::chain {

// The chain's layers from the top down, sizes in bytes.
nlohmann::json describe(Chain& chain);

// Serves `chain`, opened at `top`, which outlives the server.
Result<std::unique_ptr<ControlServer>> serve_control(Chain& chain,
                                                     const std::filesystem::path& top);

class LiveChain {
 public:
  explicit LiveChain(ControlClient client) : client_(std::move(client)) {}
  Result<nlohmann::json> info() const;
  Result<> checkpoint(const std::string& name, const std::filesystem::path& kept) const;

 private:
  ControlClient client_;
};

// not_found: nobody serves the chain at `top`.
Result<LiveChain> live_chain(const std::filesystem::path& top);

}  // namespace tidepool::blockdev::chain
