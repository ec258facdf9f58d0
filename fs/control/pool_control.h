// What one can ask of a pool and do to it, wherever it is: PoolControl.
//
// LocalControl works on a Pool in this process: inside the daemon it answers the
// control service, in elasticctl it works on an offline pool. RemoteControl asks
// a daemon over its control socket. All speak the JSON of pool_json.h.
#pragma once

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/control_socket.h"
#include "fs/control/pool_json.h"

namespace tidepool::control {

struct VmChanges {                              // what is not named stays
  std::optional<std::uint64_t> quota, reserve;  // bytes
  std::optional<pool::Durability> durability;
};

// {"quota": 10737418240 or "10G", "reserve": ..., "durability": "scratch"}.
Result<VmChanges> parse_vm_changes(const std::string& body);
nlohmann::json to_json(const VmChanges& changes);
// {"size": 10737418240 or "10G"}; 0 for a device: all of it.
Result<std::uint64_t> parse_grow(const std::string& body);

class PoolControl {
 public:
  virtual ~PoolControl() = default;
  virtual Result<nlohmann::json> info() = 0;
  virtual Result<nlohmann::json> list() = 0;
  virtual Result<nlohmann::json> stat() = 0;
  virtual Result<nlohmann::json> map(const std::string& disk) = 0;  // name or id
  // Stable when it returns; answers with the VM as list() words it.
  virtual Result<nlohmann::json> set_vm(const std::string& name, const VmChanges& changes) = 0;
  // Resizes the pool file (a device is taken as large as it is, size 0), then
  // the pool; stable when it returns. Answers with info().
  virtual Result<nlohmann::json> grow(std::uint64_t size) = 0;
};

// Thread-safe. Pool and store outlive it.
class LocalControl : public PoolControl {
 public:
  LocalControl(pool::Pool& pool, blockdev::FileStore& store, PoolContext context)
      : pool_(pool), store_(store), context_(std::move(context)) {}
  Result<nlohmann::json> info() override { return info_json(pool_, store_, context_); }
  Result<nlohmann::json> list() override { return list_json(pool_); }
  Result<nlohmann::json> stat() override { return stat_json(pool_, store_); }
  Result<nlohmann::json> map(const std::string& disk) override { return map_json(pool_, disk); }
  Result<nlohmann::json> set_vm(const std::string& name, const VmChanges& changes) override;
  Result<nlohmann::json> grow(std::uint64_t size) override;

 private:
  Result<std::uint64_t> resize_store(std::uint64_t size);

  pool::Pool& pool_;
  blockdev::FileStore& store_;
  const PoolContext context_;
  std::mutex change_mutex_;  // one set_vm or grow at a time: each reads, then writes
};

class RemoteControl : public PoolControl {
 public:
  explicit RemoteControl(ControlClient client) : client_(std::move(client)) {}
  Result<nlohmann::json> info() override { return ask("GET", "/v1/info"); }
  Result<nlohmann::json> list() override { return ask("GET", "/v1/list"); }
  Result<nlohmann::json> stat() override { return ask("GET", "/v1/stat"); }
  Result<nlohmann::json> map(const std::string& disk) override;
  Result<nlohmann::json> set_vm(const std::string& name, const VmChanges& changes) override;
  Result<nlohmann::json> grow(std::uint64_t size) override;

 private:
  Result<nlohmann::json> ask(const std::string& method, const std::string& path,
                             const std::map<std::string, std::string>& parameters = {},
                             const std::string& body = {});
  ControlClient client_;
};

}  // namespace tidepool::control
