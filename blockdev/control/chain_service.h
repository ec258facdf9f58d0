// Asking a chain that is being served: its figures, a checkpoint, a commit, a
// deletion.
//
// HTTP and JSON on a Unix socket (base/control_socket.h), found by the path of the
// top layer: GET /v1/info; POST /v1/checkpoint with "name" and "file", which answers
// "held_us", for how long writes waited; POST /v1/commit with "copy"; POST /v1/delete
// with "name". The last two only begin: GET /v1/job tells how far they are.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "base/control_socket.h"
#include "blockdev/chain/chain.h"
#include "blockdev/chain/store_copy.h"

namespace tidepool::blockdev::chain {

// The chain's layers from the top down, sizes in bytes.
nlohmann::json describe(Chain& chain);

// Serves `chain`, opened at `top`, which outlives it.
class ChainService {
 public:
  static Result<std::unique_ptr<ChainService>> start(Chain& chain,
                                                     const std::filesystem::path& top);
  ~ChainService();  // a job that runs is stopped; it can be given again later

 private:
  ChainService(Chain& chain, std::filesystem::path top) : chain_(chain), top_(std::move(top)) {}
  Result<ControlReply> checkpoint(const ControlRequest& request);
  Result<ControlReply> begin_commit(const ControlRequest& request);
  Result<ControlReply> begin_delete(const ControlRequest& request);
  Result<ControlReply> begin(std::function<Result<>()> work);
  ControlReply job();

  Chain& chain_;
  const std::filesystem::path top_;
  std::mutex mutex_;  // guards all below but progress_
  std::thread worker_;
  bool running_ = false;
  std::optional<Error> error_;  // of the last job
  Progress progress_;
  std::unique_ptr<ControlServer> server_;
};

class LiveChain {
 public:
  explicit LiveChain(ControlClient client) : client_(std::move(client)) {}
  Result<nlohmann::json> info() const;
  Result<Chain::Held> checkpoint(const std::string& name,
                                 const std::filesystem::path& kept) const;
  // These wait for the end; `progress` tells meanwhile.
  Result<> commit(const std::filesystem::path& copy, Progress& progress) const;
  Result<> remove(const std::string& name, Progress& progress) const;

 private:
  Result<nlohmann::json> ask(const char* method, const char* path,
                             const nlohmann::json& body = {}) const;
  Result<> wait(Progress& progress) const;
  ControlClient client_;
};

// not_found: nobody serves the chain at `top`.
Result<LiveChain> live_chain(const std::filesystem::path& top);

}  // namespace tidepool::blockdev::chain
