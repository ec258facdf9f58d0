// elasticctl: makes, shows, changes and checks elastic pools.
//
// Each verb is one function here: it opens what the command line names, asks
// PoolControl, and prints the answer as a table or as JSON. Exit status: 0 ok,
// 1 failed, 2 wrong usage.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/size_text.h"
#include "fs/control/prometheus.h"
#include "fs/tools/check_verb.h"
#include "fs/tools/create_pool.h"
#include "fs/tools/dump_verb.h"
#include "fs/tools/open_pool.h"
#include "fs/tools/show.h"

namespace tidepool::tools {
namespace {

using nlohmann::json;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;

struct Arguments {
  std::string pool;   // file, device, mount point or path on the mount
  std::string inner;  // map: the disk; vm set: the VM
  std::string size, second_size, chunk, quota, reserve, durability;
  double interval = 1;  // seconds
  bool as_json = false, prometheus = false, watch = false, force = false, repair = false;
};

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

int report(const Error& error) {
  fmt::print(stderr, "elasticctl: {}\n", error.message);
  return exit_failed;
}

// What was asked is done, but nobody could read the answer.
int wrong_output() {
  if (errno != EPIPE) fmt::print(stderr, "elasticctl: cannot write the answer to its output\n");
  return exit_failed;
}

int wrong_usage(const std::string& message) {
  fmt::print(stderr, "elasticctl: {}\n", message);
  return exit_usage;
}

int answer(const Arguments& arguments, const Result<json>& value,
           std::string (*show)(const json&)) {
  if (!value) return report(value.error());
  print(arguments.as_json ? control::to_text(*value, 2) : show(*value));
  return exit_ok;
}

int run_info(const Arguments& arguments) {
  auto pool = open_pool(arguments.pool, Access::read);
  if (!pool) return report(pool.error());
  return answer(arguments, pool->control().info(), show_info);
}

int run_list(const Arguments& arguments) {
  auto pool = open_pool(arguments.pool, Access::read);
  if (!pool) return report(pool.error());
  return answer(arguments, pool->control().list(), show_list);
}

int run_dump(const Arguments& arguments) {
  auto pool = open_pool(arguments.pool, Access::read);
  if (!pool) return report(pool.error());
  const auto dumped = dump_pool(pool->control(), arguments.as_json, print);
  return dumped ? exit_ok : report(dumped.error());
}

int show_stat_once(const Arguments& arguments, OpenPool& pool) {
  const auto stat = pool.control().stat();
  if (!stat) return report(stat.error());
  if (arguments.prometheus)
    print(control::prometheus_text(*stat));
  else if (arguments.as_json)
    print(control::to_text(*stat, arguments.watch ? -1 : 2));
  else
    print(show_stat(*stat));
  return exit_ok;
}

int run_stat(const Arguments& arguments) {
  auto pool = open_pool(arguments.pool, Access::read);
  if (!pool) return report(pool.error());
  if (!arguments.watch) return show_stat_once(arguments, *pool);
  if (!pool->mount_point())
    return wrong_usage(
        fmt::format("pool {}: it is offline, there is nothing to watch", arguments.pool));
  const bool redraw = ::isatty(STDOUT_FILENO) != 0 && !arguments.as_json && !arguments.prometheus;
  for (;;) {
    if (redraw) print("\x1b[H\x1b[2J");
    if (const int status = show_stat_once(arguments, *pool); status != exit_ok) return status;
    if (std::ferror(stdout) != 0) return exit_ok;  // the reader has seen enough
    if (!redraw && !arguments.as_json) print("\n");
    std::this_thread::sleep_for(std::chrono::duration<double>(arguments.interval));
  }
}

// `map` and `vm set` name the inner thing as a second word, or by its own path on
// the mount.
int with_inner(const Arguments& arguments, Access access, const char* what,
               const std::function<int(control::PoolControl&, const std::string&)>& work) {
  auto pool = open_pool(arguments.pool, access);
  if (!pool) return report(pool.error());
  const std::string inner = arguments.inner.empty() ? pool->inside() : arguments.inner;
  if (inner.empty())
    return wrong_usage(
        fmt::format("{}: this names the pool, say which {} in it too", arguments.pool, what));
  return work(pool->control(), inner);
}

int run_map(const Arguments& arguments) {
  return with_inner(arguments, Access::read, "disk (as VM/DISK)",
                    [&](control::PoolControl& control, const std::string& disk) {
                      return answer(arguments, control.map(disk), show_map);
                    });
}

int run_vm_set(const Arguments& arguments) {
  control::VmChanges changes;
  if (!arguments.quota.empty()) changes.quota = parse_size(arguments.quota).value();
  if (!arguments.reserve.empty()) changes.reserve = parse_size(arguments.reserve).value();
  if (!arguments.durability.empty())
    changes.durability = control::parse_durability(arguments.durability).value();
  if (!changes.quota && !changes.reserve && !changes.durability)
    return wrong_usage("vm set: say what to set: --quota, --reserve or --durability");
  return with_inner(arguments, Access::change, "VM",
                    [&](control::PoolControl& control, const std::string& vm) {
                      return answer(arguments, control.set_vm(vm, changes), show_vm);
                    });
}

int run_create(const Arguments& arguments) {
  CreateRequest request{.path = arguments.pool, .force = arguments.force};
  if (!arguments.size.empty()) request.size = parse_size(arguments.size).value();
  if (!arguments.chunk.empty()) request.chunk_bytes = parse_size(arguments.chunk).value();
  std::string note;
  const auto info = create_pool(request, note);
  if (!note.empty()) fmt::print(stderr, "elasticctl: pool {}: {}\n", arguments.pool, note);
  return answer(arguments, info, [](const json& created) {
    return fmt::format("pool {} made: {}, {} for data, chunks of {}\n",
                       created.at("path").get<std::string>(),
                       format_size(created.at("pool_bytes").get<std::uint64_t>()),
                       format_size(created.at("data_bytes").get<std::uint64_t>()),
                       format_size(created.at("chunk_bytes").get<std::uint64_t>()));
  });
}

int run_grow(const Arguments& arguments) {
  if (!arguments.size.empty() && !arguments.second_size.empty())
    return wrong_usage("grow: the size is given twice");
  const std::string& size = arguments.size.empty() ? arguments.second_size : arguments.size;
  auto pool = open_pool(arguments.pool, Access::change);
  if (!pool) return report(pool.error());
  const std::uint64_t bytes = size.empty() ? 0 : parse_size(size).value();
  return answer(arguments, pool->control().grow(bytes), [](const json& info) {
    return fmt::format("pool {}: {}, {} available\n", info.at("path").get<std::string>(),
                       format_size(info.at("pool_bytes").get<std::uint64_t>()),
                       format_size(info.at("available_bytes").get<std::uint64_t>()));
  });
}

int run_check(const Arguments& arguments) {
  const auto verdict = check_verb(arguments.pool, arguments.repair);
  if (!verdict) return report(verdict.error());
  print(arguments.as_json ? control::to_text(verdict->report, 2) : show_check(verdict->report));
  return verdict->sound ? exit_ok : exit_failed;
}

// --- the command line ---

std::string size_fault(const std::string& text) {
  const auto size = parse_size(text);
  return size ? "" : size.error().message;
}

class CommandLine {
 public:
  CommandLine() {
    app_.set_version_flag("--version", "elasticctl (tidepool) " TIDEPOOL_VERSION);
    app_.require_subcommand(1);
    app_.footer(
        "POOL is a pool's file or device, or any path on its mount: a mounted pool is asked\n"
        "through its daemon, another one is opened. Sizes: 512M, 1.5G, 2T (powers of 1024).\n"
        "Exit status: 0 ok, 1 failed, 2 wrong usage. See elasticctl(1).");
    add_create();
    add_queries();
    add_changes();
  }

  int run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      // CLI11 would only say what is missing in its place.
      if (const auto unknown = app_.remaining(true);
          error.get_name() == "RequiredError" && !unknown.empty())
        return wrong_usage(fmt::format(
            "'{}' is not understood; 'elasticctl --help' lists the verbs", unknown.front()));
      return app_.exit(error) == 0 ? exit_ok : exit_usage;
    }
    const int status = chosen_(arguments_);
    if (status != exit_ok || (std::fflush(stdout) == 0 && std::ferror(stdout) == 0)) return status;
    return wrong_output();
  }

 private:
  CLI::App* add_verb(CLI::App& parent, const char* name, const char* help,
                     int (*verb)(const Arguments&)) {
    CLI::App* app = parent.add_subcommand(name, help);
    app->callback([this, verb] { chosen_ = verb; });
    app->add_option("POOL", arguments_.pool, "Pool file or device, or path on its mount")
        ->required();
    app->add_flag("--json", arguments_.as_json, "Print JSON, sizes in bytes");
    return app;
  }

  void add_size(CLI::App& app, const char* name, std::string& value, const char* help) {
    app.add_option(name, value, help)->type_name("SIZE")->check(size_fault);
  }

  void add_create() {
    CLI::App& app = *add_verb(app_, "create", "Make an empty pool in a file or device", run_create);
    add_size(app, "--size", arguments_.size, "Size of the pool file; a device has its own");
    add_size(app, "--chunk", arguments_.chunk,
             "Unit of contiguous allocation, a power of two from 64K to 16M (default 1M)");
    app.add_flag("--force", arguments_.force, "Overwrite what is there, even a pool");
  }

  void add_queries() {
    add_verb(app_, "info", "Show what a pool is and how full", run_info);
    add_verb(app_, "list", "List VMs and disks", run_list);
    CLI::App& stat = *add_verb(app_, "stat", "Show the pool's and the VMs' figures", run_stat);
    stat.add_flag("--prometheus", arguments_.prometheus, "Print Prometheus text")
        ->excludes("--json");
    CLI::Option* watch =
        stat.add_flag("--watch", arguments_.watch, "Show them again and again, until interrupted");
    stat.add_option("--interval", arguments_.interval, "Seconds between two of these (default 1)")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.1, 86400.0))
        ->needs(watch);
    CLI::App& map = *add_verb(app_, "map", "Show where a disk's data lies in the pool", run_map);
    map.add_option("DISK", arguments_.inner,
                   "VM/DISK, unless POOL is the disk's own path on the mount");
    add_verb(app_, "dump", "Show everything: the pool, every VM, every disk with its map",
             run_dump);
  }

  void add_changes() {
    CLI::App& vm = *app_.add_subcommand("vm", "Change a VM's settings");
    vm.require_subcommand(1);
    CLI::App& set =
        *add_verb(vm, "set", "Set quota, reservation or durability of a VM", run_vm_set);
    set.add_option("NAME", arguments_.inner,
                   "The VM, unless POOL is the VM's own directory on the mount");
    add_size(set, "--quota", arguments_.quota, "Most that its disks may hold; 0: no limit");
    add_size(set, "--reserve", arguments_.reserve, "Space kept free for it; 0: none");
    set.add_option("--durability", arguments_.durability,
                   "durable: a flush waits until data is stable; scratch: it does not")
        ->check(CLI::IsMember({"durable", "scratch"}));
    CLI::App& grow = *add_verb(app_, "grow", "Enlarge a pool, mounted or not", run_grow);
    add_size(grow, "SIZE", arguments_.second_size, "New size; a device's own when left out");
    add_size(grow, "--size", arguments_.size, "The same");
    CLI::App& check = *add_verb(app_, "check", "Look for faults in a pool", run_check);
    check.add_flag("--repair", arguments_.repair, "Repair what can be, and say what is lost");
  }

  CLI::App app_{"Makes, shows, changes and checks elastic pools.", "elasticctl"};
  Arguments arguments_;
  int (*chosen_)(const Arguments&) = nullptr;
};

}  // namespace
}  // namespace tidepool::tools

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // a daemon that goes away is an error to report
  return tidepool::tools::CommandLine().run(argc, argv);
}
