#include "vmm/control/machine_service.h"

#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/prometheus_text.h"
#include "base/size_text.h"
#include "vmm/control/figures_text.h"
#include "vmm/sandbox/confinement.h"

namespace tidepool::vmm {

using nlohmann::json;

namespace {

constexpr std::string_view suffix = ".sock";

std::string directory() { return control_directory("leanvm"); }
std::string socket_path(const std::string& name) {
  return fmt::format("{}/{}{}", directory(), name, suffix);
}

// Those that the guest caused.
std::uint64_t sum(const ExitFigures& exits) { return exits.port + exits.memory + exits.other; }

json describe(Machine& machine, const std::string& name) {
  const MachineConfig& config = machine.config();
  json disks = json::array();
  for (const MachineDisk& disk : config.disks) {
    if (disk.store == nullptr) {
      disks.push_back({{"name", "vhost-user=" + disk.vhost_user}, {"queues", disk.queues}});
      continue;
    }
    const blockdev::Geometry geometry = disk.store->geometry();
    disks.push_back({{"name", disk.store->name()},
                     {"size", geometry.size},
                     {"read_only", geometry.read_only},
                     {"queues", disk.queues}});
  }
  json scsi_disks = json::array();
  for (const auto& store : config.scsi_disks) {
    const blockdev::Geometry geometry = store->geometry();
    scsi_disks.push_back(
        {{"name", store->name()}, {"size", geometry.size}, {"read_only", geometry.read_only}});
  }
  json nets = json::array();
  for (const MachineNet& net : config.nets) {
    nets.push_back({{"name", net.name}, {"mac", virtio::to_string(net.address)}});
  }
  return {{"name", name},
          {"pid", ::getpid()},
          {"state", machine.is_paused() ? "paused" : "running"},
          {"kernel", config.boot.kernel.native()},
          {"cpus", config.cpus},
          {"memory", config.memory},
          {"disks", disks},
          {"scsi_disks", scsi_disks},
          {"nets", nets},
          {"exits", sum(machine.figures().exits)},
          {"memory_writers", machine.writers().names()}};
}

// One that cannot be confined is to end: what its socket is told might be hostile.
void confine_control(Machine& machine, const char* name) {
  ::pthread_setname_np(::pthread_self(), name);
  if (!machine.config().confined) return;
  auto confined = confine_thread(ThreadKind::control);
  if (confined) return;
  log().error("{}", confined.error().message);
  machine.stop();
}

Result<ControlReply> done(const Result<>& result) {
  if (!result) return std::unexpected(result.error());
  return ControlReply{"{}\n"};
}

}  // namespace

Result<> check_machine_name(const std::string& name) {
  constexpr std::size_t longest = 64;
  const bool good = !name.empty() && name.size() <= longest && name.front() != '.' &&
                    std::ranges::all_of(name, [](unsigned char c) {
                      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
                    });
  if (good) return {};
  return fail(ErrorKind::invalid_argument,
              "'{}' is no name for a machine: letters, digits, '-', '_' and '.' make one", name);
}

Result<std::unique_ptr<MachineService>> MachineService::start(Machine& machine,
                                                              MachineSetup setup) {
  const std::string name = setup.name;
  using Request = const ControlRequest&;
  std::vector<ControlRoute> routes{
      {"GET", "/v1/info",
       [&machine, name](Request) -> Result<ControlReply> {
         return ControlReply{describe(machine, name).dump(2) + "\n"};
       }},
      {"GET", "/v1/stat",
       [&machine, name](Request) -> Result<ControlReply> {
         return ControlReply{to_json(name, machine.figures()).dump(2) + "\n"};
       }},
      {"GET", "/v1/metrics",
       [&machine, name](Request) -> Result<ControlReply> {
         return ControlReply{prometheus_text(to_json(name, machine.figures())),
                             PrometheusText::content_type};
       }},
      {"PUT", "/v1/pause", [&machine](Request) { return done(machine.pause()); }},
      {"PUT", "/v1/resume", [&machine](Request) { return done(machine.resume()); }},
      {"PUT", "/v1/power-button",
       [&machine](Request) {
         machine.press_power_button();
         return done({});
       }},
      {"PUT", "/v1/stop",
       [&machine](Request) {
         machine.stop();
         return done({});
       }},
      {"PUT", "/v1/balloon",
       [&machine](Request request) -> Result<ControlReply> {
         const auto size = request.parameters.find("size");
         const auto bytes =
             size == request.parameters.end() ? parse_size("") : parse_size(size->second);
         if (!bytes)
           return fail(ErrorKind::invalid_argument, "balloon wants size=, such as 512M or 0");
         return done(machine.set_balloon(*bytes));
       }},
      {"PUT", "/v1/save",
       [&machine, setup = std::move(setup)](Request request) -> Result<ControlReply> {
         const auto file = request.parameters.find("file");
         if (file == request.parameters.end() || !file->second.starts_with('/'))
           return fail(ErrorKind::invalid_argument, "save wants file=, an absolute path");
         return done(machine.save(setup, file->second));
       }},
  };
  auto server = ControlServer::start(socket_path(name), std::move(routes),
                                     [&machine] { confine_control(machine, "control"); });
  if (server) return std::unique_ptr<MachineService>(new MachineService(std::move(*server)));
  if (server.error().kind != ErrorKind::busy) return std::unexpected(server.error());
  return fail(ErrorKind::busy, "a machine with the name '{}' runs already", name);
}

std::string console_path(const std::string& name) {
  return fmt::format("{}/{}.console", directory(), name);
}

Result<std::unique_ptr<ConsoleSocket>> serve_console(const std::string& name, Machine& machine,
                                                     ConsoleWatchers& watchers) {
  return ConsoleSocket::start(
      console_path(name), watchers, [&machine](std::string_view text) { machine.type(text); },
      [&machine] { confine_control(machine, "console"); });
}

namespace {

Result<ControlClient> connect(const std::string& name) {
  if (auto good = check_machine_name(name); !good) return std::unexpected(good.error());
  auto client = ControlClient::connect(socket_path(name));
  if (client || client.error().kind != ErrorKind::not_found) return client;
  return fail(ErrorKind::not_found, "no machine with the name '{}' runs", name);
}

}  // namespace

namespace {

// A JSON object.
Result<json> ask(const std::string& name, const char* path) {
  auto client = connect(name);
  if (!client) return std::unexpected(client.error());
  auto body = client->request("GET", path);
  if (!body) return std::unexpected(body.error());
  json answer = json::parse(*body, nullptr, false);
  if (answer.is_object()) return answer;
  return fail(ErrorKind::io, "the machine '{}' gives no answer that makes sense", name);
}

}  // namespace

Result<json> machine_info(const std::string& name) { return ask(name, "/v1/info"); }

Result<json> machine_figures(const std::string& name) { return ask(name, "/v1/stat"); }

Result<std::string> machine_metrics(const std::string& name) {
  auto client = connect(name);
  if (!client) return std::unexpected(client.error());
  return client->request("GET", "/v1/metrics");
}

Result<> tell_machine(const std::string& name, const std::string& action) {
  auto client = connect(name);
  if (!client) return std::unexpected(client.error());
  auto body = client->request("PUT", "/v1/" + action);
  if (!body) return std::unexpected(body.error());
  return {};
}

Result<> set_machine_balloon(const std::string& name, const std::string& size) {
  auto client = connect(name);
  if (!client) return std::unexpected(client.error());
  auto body = client->request("PUT", "/v1/balloon", {{"size", size}});
  if (!body) return std::unexpected(body.error());
  return {};
}

Result<> save_machine(const std::string& name, const std::filesystem::path& file) {
  auto info = machine_info(name);
  if (!info) return std::unexpected(info.error());
  const json pid = info->value("pid", json{});
  if (!pid.is_number_integer())
    return fail(ErrorKind::io, "the machine '{}' gives no answer that makes sense", name);
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid.get<int>(), 0)));
  if (!process) return fail_errno(errno, fmt::format("cannot watch the machine '{}'", name));
  auto client = connect(name);
  if (!client) return std::unexpected(client.error());
  auto body = client->request("PUT", "/v1/save", {{"file", file.native()}});
  if (!body) return std::unexpected(body.error());
  pollfd ended{process.get(), POLLIN, 0};
  while (::poll(&ended, 1, -1) < 0 && errno == EINTR) {
  }
  return {};
}

std::vector<json> running_machines() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory(), none)) {
    const std::string file = entry.path().filename().native();
    if (file.ends_with(suffix)) names.push_back(file.substr(0, file.size() - suffix.size()));
  }
  std::ranges::sort(names);
  std::vector<json> machines;
  for (const std::string& name : names) {
    if (auto info = machine_info(name)) machines.push_back(std::move(*info));
  }
  return machines;
}

}  // namespace tidepool::vmm
