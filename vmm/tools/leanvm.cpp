// leanvm: runs virtual machines.
//
// Exit status: 0 the guest turned itself off (or reset, with --no-reboot) or was saved,
// 1 failed or was stopped, 2 wrong usage.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/file_limit.h"
#include "base/log.h"
#include "base/size_text.h"
#include "base/start_memory.h"
#include "blockdev/chain/open_disk.h"
#include "virtio/tap_port.h"
#include "vmm/control/console_socket.h"
#include "vmm/control/machine_service.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/confinement.h"
#include "vmm/tools/console_client.h"
#include "vmm/tools/run_config.h"
#include "vmm/tools/show_machines.h"
#include "vmm/tools/terminal.h"

namespace tidepool::tools {
namespace {

using namespace vmm;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;

constexpr std::string_view vhost_user = "vhost-user=";  // of --disk and --net
enum class DiskKind : std::uint8_t { block, scsi };

struct DiskArgument {
  std::string name;
  blockdev::chain::DiskOptions options;
  std::uint16_t queues = 1;
};

struct Arguments {
  std::string kernel, initrd, command_line, memory = "512M", console = "serial";
  unsigned cpus = 1;
  std::vector<std::string> disks, scsi_disks, nets;
  std::string name, file, config, balloon;
  bool no_reboot = false, as_json = false, prometheus = false, now = false;
};

int report(const Error& error) {
  fmt::print(stderr, "leanvm: {}\n", error.message);
  return exit_failed;
}

// NAME[,raw][,ro][,queues=N]; a SCSI disk has no queues of its own. A name may have commas:
// only what is known is cut off its end.
Result<DiskArgument> parse_disk(const std::string& text, DiskKind kind) {
  const char* const option = kind == DiskKind::scsi ? "--scsi" : "--disk";
  DiskArgument disk{.name = text};
  for (;;) {
    const auto comma = disk.name.rfind(',');
    if (comma == disk.name.npos) break;
    const std::string word = disk.name.substr(comma + 1);
    constexpr std::string_view queues = "queues=";
    if (word == "raw") {
      disk.options.raw = true;
    } else if (word == "ro") {
      disk.options.read_only = true;
    } else if (kind == DiskKind::block && word.starts_with(queues)) {
      const std::string digits = word.substr(queues.size());
      const bool number = !digits.empty() && digits.size() <= 3 &&
                          digits.find_first_not_of("0123456789") == digits.npos;
      if (!number) {
        return fail(ErrorKind::invalid_argument, "{} {}: '{}' is not a number of queues", option,
                    text, digits);
      }
      disk.queues = static_cast<std::uint16_t>(std::stoul(digits));
    } else {
      break;
    }
    disk.name.erase(comma);
  }
  if (disk.name.empty()) return fail(ErrorKind::invalid_argument, "{} {}: no name", option, text);
  return disk;
}

// tap=NAME[,mac=ADDRESS] or vhost-user=SOCKET[,mac=ADDRESS]
Result<MachineNet> parse_net(const std::string& text) {
  constexpr std::string_view tap = "tap=", mac = ",mac=";
  const bool foreign = text.starts_with(vhost_user);
  const auto comma = std::min(text.find(','), text.size());
  const std::string rest = text.substr(comma);
  if ((!text.starts_with(tap) && !foreign) || (!rest.empty() && !rest.starts_with(mac))) {
    return fail(ErrorKind::invalid_argument,
                "--net {}: tap=NAME[,mac=ADDRESS] or vhost-user=SOCKET[,mac=ADDRESS] is meant",
                text);
  }
  const Result<virtio::MacAddress> address =
      rest.empty() ? virtio::random_mac() : virtio::parse_mac(rest.substr(mac.size()));
  if (!address) return std::unexpected(address.error());
  if (foreign) {
    const std::string socket = text.substr(vhost_user.size(), comma - vhost_user.size());
    return MachineNet{"vhost-user=" + socket, *address, nullptr, socket};
  }
  auto port = virtio::TapPort::open(text.substr(tap.size(), comma - tap.size()));
  if (!port) return std::unexpected(port.error());
  return MachineNet{(*port)->name(), *address, std::move(*port), {}};
}

Result<MachineConfig> configure(const Arguments& a) {
  MachineConfig config{.boot = {a.kernel, a.initrd, a.command_line},
                       .cpus = a.cpus,
                       .console = a.console == "virtio" ? ConsoleKind::virtio : ConsoleKind::serial,
                       .confined = true,
                       .output = {}};
  auto memory = parse_size(a.memory);
  if (!memory) return std::unexpected(memory.error());
  config.memory = *memory;
  for (const std::string& text : a.disks) {
    auto disk = parse_disk(text, DiskKind::block);
    if (!disk) return std::unexpected(disk.error());
    if (disk->name.starts_with(vhost_user)) {
      if (disk->options.raw || disk->options.read_only) {
        return fail(ErrorKind::invalid_argument,
                    "--disk {}: what the disk is is said by its back end, not by raw or ro", text);
      }
      config.disks.push_back(
          {.queues = disk->queues, .vhost_user = disk->name.substr(vhost_user.size())});
      continue;
    }
    auto store = blockdev::chain::open_disk(disk->name, disk->options);
    if (!store) return std::unexpected(store.error());
    config.disks.push_back(
        {std::move(*store), disk->queues, fmt::format("disk{}", config.disks.size())});
  }
  for (const std::string& text : a.scsi_disks) {
    auto disk = parse_disk(text, DiskKind::scsi);
    if (!disk) return std::unexpected(disk.error());
    auto store = blockdev::chain::open_disk(disk->name, disk->options);
    if (!store) return std::unexpected(store.error());
    config.scsi_disks.push_back(std::move(*store));
  }
  for (const std::string& text : a.nets) {
    auto net = parse_net(text);
    if (!net) return std::unexpected(net.error());
    config.nets.push_back(std::move(*net));
  }
  return config;
}

// What a name means from any directory.
std::string everywhere(const std::string& path) {
  if (path.empty() || path.find("://") != path.npos) return path;
  return std::filesystem::absolute(path).native();
}

MachineSetup setup_of(const Arguments& a, const MachineConfig& config) {
  MachineSetup setup{.name = a.name,
                     .kernel = everywhere(a.kernel),
                     .initrd = everywhere(a.initrd),
                     .command_line = a.command_line,
                     .cpus = a.cpus,
                     .memory = config.memory,
                     .console = a.console,
                     .no_reboot = a.no_reboot,
                     .disks = {},
                     .nets = {}};
  for (const std::string& disk : a.disks) setup.disks.push_back(everywhere(disk));
  // The guest knows its cards' addresses: those by chance must stay as well.
  for (std::size_t i = 0; i < a.nets.size(); ++i) {
    setup.nets.push_back(fmt::format("{},mac={}", a.nets[i].substr(0, a.nets[i].find(',')),
                                     virtio::to_string(config.nets[i].address)));
  }
  return setup;
}

Arguments arguments_of(const MachineSetup& setup) {
  Arguments a;
  a.kernel = setup.kernel;
  a.initrd = setup.initrd;
  a.command_line = setup.command_line;
  a.memory = std::to_string(setup.memory);
  a.console = setup.console;
  a.cpus = setup.cpus;
  a.disks = setup.disks;
  a.nets = setup.nets;
  a.name = setup.name;
  a.no_reboot = setup.no_reboot;
  return a;
}

// Waits for the signals that end a machine, on a thread of its own.
class EndingSignals {
 public:
  // Blocks them for the calling thread and those it starts afterwards.
  EndingSignals() {
    ::sigemptyset(&set_);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, end_watch()}) ::sigaddset(&set_, number);
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // `on_signal` until the object goes.
  void watch(std::function<void()> on_signal) {
    thread_ = std::thread([this, on_signal = std::move(on_signal)] {
      if (auto confined = confine_thread(ThreadKind::terminal); !confined) {
        log().error("{}", confined.error().message);
        return on_signal();
      }
      int number = 0;
      while (::sigwait(&set_, &number) == 0 && number != end_watch()) on_signal();
    });
    ::pthread_setname_np(thread_.native_handle(), "signals");
  }
  void end() {
    if (!thread_.joinable()) return;
    ::pthread_kill(thread_.native_handle(), end_watch());
    thread_.join();
  }
  ~EndingSignals() { end(); }

 private:
  static int end_watch() { return SIGRTMAX; }  // of our own

  sigset_t set_;
  std::thread thread_;
};

// Once, from power-on, or from where it was saved, to its end.
Result<Outcome> run_once(const Arguments& a, EndingSignals& signals,
                         std::unique_ptr<StateReader> saved) {
  auto config = configure(a);
  if (!config) return std::unexpected(config.error());
  MachineSetup setup = setup_of(a, *config);
  ConsoleWatchers watchers;
  config->output = [&watchers](std::string_view text) {
    print(text);
    watchers.print(text);
  };
  auto machine = saved != nullptr ? Machine::restore(std::move(*config), *saved)
                                  : Machine::create(std::move(*config));
  saved.reset();
  if (!machine) return std::unexpected(machine.error());
  Machine& running = **machine;
  auto service = MachineService::start(running, std::move(setup));
  if (!service) return std::unexpected(service.error());
  auto console = serve_console(a.name, running, watchers);
  if (!console) return std::unexpected(console.error());
  signals.watch([&] { running.stop(); });
  Result<Outcome> outcome;
  {
    const Keyboard keyboard([&](std::string_view keys) { running.type(keys); },
                            [&] { running.stop(); });
    give_back_start_memory();
    outcome = running.run();
  }
  signals.end();
  return outcome;
}

// saved: where the first run begins, or null.
int run_machine(Arguments a, std::unique_ptr<StateReader> saved) {
  if (a.name.empty()) a.name = fmt::format("vm-{}", ::getpid());
  if (auto good = check_machine_name(a.name); !good) return report(good.error()), exit_usage;
  if (auto confined = confine_process(); !confined) return report(confined.error());
  EndingSignals signals;
  for (;;) {
    auto outcome = run_once(a, signals, std::exchange(saved, nullptr));
    if (!outcome) return report(outcome.error());
    if (*outcome == Outcome::power_off) return exit_ok;
    if (*outcome == Outcome::saved) {
      fmt::print(stderr, "leanvm: saved\n");
      return exit_ok;
    }
    if (*outcome == Outcome::stopped) {
      fmt::print(stderr, "leanvm: stopped\n");
      return exit_failed;
    }
    if (a.no_reboot) return exit_ok;
  }
}

int run_restored(const Arguments& a) {
  auto reader = StateReader::open(a.file);
  if (!reader) return report(reader.error());
  const auto setup = read_setup(**reader);
  if (!setup) return report(setup.error());
  Arguments restored = arguments_of(*setup);
  if (!a.name.empty()) restored.name = a.name;
  return run_machine(std::move(restored), std::move(*reader));
}

int run_save(const Arguments& a) {
  auto saved = save_machine(a.name, std::filesystem::absolute(a.file));
  return saved ? exit_ok : report(saved.error());
}

int run_list(const Arguments& a) {
  const auto machines = running_machines();
  if (a.as_json) {
    print(nlohmann::json(machines).dump(2) + "\n");
  } else {
    print(machines_table(machines));
  }
  return exit_ok;
}

int run_info(const Arguments& a) {
  const auto info = machine_info(a.name);
  if (!info) return report(info.error());
  if (a.as_json) {
    print(info->dump(2) + "\n");
  } else {
    print(machines_table({*info}));
  }
  return exit_ok;
}

int run_stat(const Arguments& a) {
  if (a.prometheus) {
    const auto text = machine_metrics(a.name);
    if (!text) return report(text.error());
    print(*text);
    return exit_ok;
  }
  const auto figures = machine_figures(a.name);
  if (!figures) return report(figures.error());
  if (a.as_json) {
    print(figures->dump(2) + "\n");
  } else {
    print(figures_tables(*figures));
  }
  return exit_ok;
}

int tell(const Arguments& a, const char* action) {
  auto told = tell_machine(a.name, action);
  return told ? exit_ok : report(told.error());
}

// Where the command line says nothing, the file of --config does.
Result<> complete(Arguments& a, const CLI::App& run) {
  RunConfig config;
  if (!a.config.empty()) {
    auto read = read_run_config(a.config);
    if (!read) return std::unexpected(read.error());
    config = std::move(*read);
  }
  const auto take = [&](const char* option, auto& into, auto& from) {
    if (from && run.count(option) == 0) into = std::move(*from);
  };
  take("--kernel", a.kernel, config.kernel);
  take("--initrd", a.initrd, config.initrd);
  take("--cmdline", a.command_line, config.command_line);
  take("--cpus", a.cpus, config.cpus);
  take("--memory", a.memory, config.memory);
  take("--disk", a.disks, config.disks);
  take("--scsi", a.scsi_disks, config.scsi_disks);
  take("--net", a.nets, config.nets);
  take("--console", a.console, config.console);
  take("--name", a.name, config.name);
  take("--no-reboot", a.no_reboot, config.no_reboot);
  if (!a.kernel.empty()) return {};
  return fail(ErrorKind::invalid_argument, "run: --kernel is needed, here or in --config's file");
}

CLI::App* add_run(CLI::App& app, Arguments& a) {
  CLI::App* const run = app.add_subcommand("run", "Run a machine until it turns itself off");
  run->add_option("--config", a.config, "A JSON file of options; those given here win");
  run->add_option("--kernel", a.kernel, "A bzImage, or an ELF image with a PVH entry");
  run->add_option("--initrd", a.initrd, "The first root file system");
  run->add_option("--cmdline", a.command_line, "The kernel's command line");
  run->add_option("--cpus", a.cpus, "How many vCPUs (default 1)");
  run->add_option("--memory", a.memory, "How much memory (default 512M)");
  run->add_option("--disk", a.disks,
                  "NAME[,raw][,ro][,queues=N]: a chain's top layer, an NBD or NFS URI, or with raw "
                  "a file or device; or vhost-user=SOCKET[,queues=N]; may be given several times")
      ->allow_extra_args(false);
  run->add_option("--scsi", a.scsi_disks,
                  "NAME[,raw][,ro]: such a disk as a unit of the machine's SCSI adapter; may be "
                  "given several times")
      ->allow_extra_args(false);
  run->add_option("--net", a.nets,
                  "tap=NAME[,mac=ADDRESS] or vhost-user=SOCKET[,mac=ADDRESS]: a network card on "
                  "the host's tap interface, or served by a back end; may be given several times")
      ->allow_extra_args(false);
  run->add_option("--console", a.console, "What standard input and output are: serial or virtio")
      ->check(CLI::IsMember({"serial", "virtio"}));
  run->add_option("--name", a.name, "What the other verbs call it (default vm-PID)");
  run->add_flag("--no-reboot", a.no_reboot, "A guest that resets ends, too");
  return run;
}

int run(int argc, char** argv) {
  CLI::App app{"Runs virtual machines.", "leanvm"};
  app.set_version_flag("--version", TIDEPOOL_VERSION);
  app.require_subcommand(1);
  Arguments a;
  const CLI::App* const run = add_run(app, a);
  const auto verb = [&](const char* name, const char* what) {
    CLI::App* const added = app.add_subcommand(name, what);
    if (std::string_view(name) != "list")
      added->add_option("NAME", a.name, "The machine")->required();
    return added;
  };
  CLI::App* const list = verb("list", "Show the machines that run");
  CLI::App* const info = verb("info", "Show one machine");
  CLI::App* const stat = verb("stat", "Show one machine's figures");
  CLI::Option* json = nullptr;
  for (CLI::App* const shows : {list, info, stat})
    json = shows->add_flag("--json", a.as_json, "Print JSON, sizes in bytes");
  stat->add_flag("--prometheus", a.prometheus, "Print Prometheus' text")->excludes(json);
  const CLI::App* const pause = verb("pause", "Nothing of the machine runs until it is resumed");
  const CLI::App* const resume = verb("resume", "The machine runs again");
  CLI::App* const stop = verb("stop", "Press the machine's power button");
  stop->add_flag("--now", a.now, "End it at once, whatever the guest does");
  const CLI::App* const console = verb("console", "Attach to the machine's console");
  CLI::App* const balloon = verb("balloon", "Ask the guest for some of its memory");
  balloon->add_option("SIZE", a.balloon, "So much in all; 0: it has all again")->required();
  CLI::App* const save = verb("save", "Write the machine to a file and end it");
  save->add_option("FILE", a.file, "The file")->required();
  CLI::App* const restore = app.add_subcommand("restore", "Run a saved machine from where it was");
  restore->add_option("FILE", a.file, "The file")->required();
  restore->add_option("--name", a.name, "What the other verbs call it (default: as before)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  if (run->parsed()) {
    if (auto completed = complete(a, *run); !completed)
      return report(completed.error()), exit_usage;
    raise_file_limit();
    return run_machine(a, nullptr);
  }
  if (restore->parsed()) {
    raise_file_limit();
    return run_restored(a);
  }
  if (console->parsed()) {
    const auto attached = attach_console(a.name);
    return attached ? exit_ok : report(attached.error());
  }
  if (save->parsed()) return run_save(a);
  if (balloon->parsed()) {
    const auto set = set_machine_balloon(a.name, a.balloon);
    return set ? exit_ok : report(set.error());
  }
  if (list->parsed()) return run_list(a);
  if (info->parsed()) return run_info(a);
  if (stat->parsed()) return run_stat(a);
  if (pause->parsed()) return tell(a, "pause");
  if (resume->parsed()) return tell(a, "resume");
  return tell(a, a.now ? "stop" : "power-button");
}

}  // namespace
}  // namespace tidepool::tools

int main(int argc, char** argv) { return tidepool::tools::run(argc, argv); }
