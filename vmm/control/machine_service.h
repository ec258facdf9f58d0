// A running machine's control service: HTTP and JSON on a Unix socket, and its client.
//
//   GET /v1/info                what the machine is and does
//   GET /v1/stat, /v1/metrics   its figures, in JSON and as Prometheus' text
//   PUT /v1/pause, /v1/resume   nothing of it runs, or it does again
//   PUT /v1/power-button        as a finger on it: the guest decides
//   PUT /v1/stop                its plug is pulled; what its disks took is finished
//   PUT /v1/balloon?size=SIZE   the guest is asked for so much of its memory
//   PUT /v1/save?file=PATH      written to a file; then it ends
//
// The socket is the machine's name: as long as it is there, no other machine has it.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/control_socket.h"
#include "base/result.h"
#include "vmm/control/console_socket.h"
#include "vmm/machine/machine.h"

namespace tidepool::vmm {

// Letters, digits, '-', '_' and '.', not first; at most 64.
Result<> check_machine_name(const std::string& name);

class MachineService {
 public:
  // Serves until it is destroyed, which comes before the machine's end. busy: another
  // machine has the name.
  // setup: what a saved one is started again with; its name is the machine's.
  static Result<std::unique_ptr<MachineService>> start(Machine& machine, MachineSetup setup);

 private:
  explicit MachineService(std::unique_ptr<ControlServer> server) : server_(std::move(server)) {}
  std::unique_ptr<ControlServer> server_;
};

// Who is attached to the machine's console sees what `watchers` are shown, and types.
// After the service, which has the name; as long.
Result<std::unique_ptr<ConsoleSocket>> serve_console(const std::string& name, Machine& machine,
                                                     ConsoleWatchers& watchers);
std::string console_path(const std::string& name);  // its socket

// not_found: no such machine runs.
Result<nlohmann::json> machine_info(const std::string& name);
Result<nlohmann::json> machine_figures(const std::string& name);  // figures_text.h
Result<std::string> machine_metrics(const std::string& name);     // Prometheus' text
// action: "pause", "resume", "power-button" or "stop".
Result<> tell_machine(const std::string& name, const std::string& action);
// size: as parse_size() takes it, what the guest is asked to give back.
Result<> set_machine_balloon(const std::string& name, const std::string& size);
// Returns when the machine was saved and its process is gone, its disks free.
Result<> save_machine(const std::string& name, const std::filesystem::path& file);
// The info of each that answers, by name.
std::vector<nlohmann::json> running_machines();

}  // namespace tidepool::vmm
