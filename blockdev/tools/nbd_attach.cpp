// nbd-attach: a chain, a raw disk or an NBD export as /dev/nbdN.
//
// The process that is started becomes the device's supervisor, in the background
// unless told otherwise. Exit status: 0 ok, 1 failed, 2 wrong usage.
#include <signal.h>
#include <spdlog/sinks/syslog_sink.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "base/background.h"
#include "base/log.h"
#include "base/size_text.h"
#include "base/text_table.h"
#include "blockdev/attach/attachment.h"

namespace tidepool::tools {
namespace {

using namespace blockdev::attach;
using nlohmann::json;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;
constexpr unsigned most_connections = 64;
constexpr std::uint32_t most_seconds = 24 * 3600;

struct Arguments {
  std::string target, device;
  AttachOptions options;
  bool raw = false, no_reconnect = false, foreground = false, list = false, as_json = false;
};

int report(const Error& error) {
  fmt::print(stderr, "nbd-attach: {}\n", error.message);
  return exit_failed;
}

int wrong_usage(const char* message) {
  fmt::print(stderr, "nbd-attach: {} (see --help)\n", message);
  return exit_usage;
}

int run_list(const Arguments& a) {
  auto attachments = list_attachments();
  if (!attachments) return report(attachments.error());
  if (a.as_json) {
    json out = json::array();
    for (const AttachmentState& state : *attachments) out.push_back(to_json(state));
    fmt::print("{}\n", out.dump(2));
  } else {
    TextTable table({{"device"},
                     {"size", TextTable::Align::right},
                     {"connections", TextTable::Align::right},
                     {"pid", TextTable::Align::right},
                     {"state"},
                     {"what"},
                     {"target"}});
    for (const AttachmentState& state : *attachments) {
      table.add({device_path(state.index), format_size(state.size),
                 std::to_string(state.connections),
                 state.pid == 0 ? "" : std::to_string(state.pid),
                 state.state + (state.read_only ? ", read-only" : ""), state.kind,
                 printable(state.target)});
    }
    fmt::print("{}", table.render());
  }
  if (std::fflush(stdout) == 0) return exit_ok;
  fmt::print(stderr, "nbd-attach: cannot write the answer to its output\n");
  return exit_failed;
}

void block_ending_signals() {
  sigset_t ending;
  ::sigemptyset(&ending);
  ::sigaddset(&ending, SIGTERM);
  ::sigaddset(&ending, SIGINT);
  ::sigprocmask(SIG_BLOCK, &ending, nullptr);
}

int run_foreground(const AttachOptions& options) {
  block_ending_signals();
  auto attachment = Attachment::start(options);
  if (!attachment) return report(attachment.error());
  fmt::print("{}\n", device_path((*attachment)->index()));
  std::fflush(stdout);
  auto done = (*attachment)->supervise();
  return done ? exit_ok : report(done.error());
}

int run_background(const AttachOptions& options) {
  auto background = Background::start();
  if (!background) return report(background.error());
  block_ending_signals();
  auto attachment = Attachment::start(options);
  if (!attachment) {
    background->failed("nbd-attach: " + attachment.error().message + "\n");
    return exit_failed;
  }
  log().sinks().push_back(
      std::make_shared<spdlog::sinks::syslog_sink_mt>("nbd-attach", LOG_PID, LOG_DAEMON, false));
  const std::string answer = device_path((*attachment)->index()) + "\n";
  if (auto gone = background->ready(answer, (*attachment)->directory().path() / "log"); !gone) {
    background->failed("nbd-attach: " + gone.error().message + "\n");
    return exit_failed;
  }
  return (*attachment)->supervise() ? exit_ok : exit_failed;
}

int run_attach(Arguments& a) {
  if (a.target.empty()) return wrong_usage("what is to be attached? Name a file or an NBD URI");
  if (!a.device.empty()) {
    auto index = device_index(a.device);
    if (!index) return report(index.error()), exit_usage;
    a.options.index = *index;
  }
  auto target = find_target(a.target, a.raw);
  if (!target) return report(target.error());
  a.options.target = *target;
  a.options.reconnect = !a.no_reconnect;
  return a.foreground ? run_foreground(a.options) : run_background(a.options);
}

int run(int argc, char** argv) {
  CLI::App app{"Attaches a chain, a raw disk or an NBD export as /dev/nbdN.", "nbd-attach"};
  app.set_version_flag("--version", TIDEPOOL_VERSION);
  Arguments a;
  AttachOptions& o = a.options;
  app.add_option("TARGET", a.target, "A chain's top layer, a raw file or disk, or an NBD URI");
  app.add_option("--device", a.device, "The device to use (default: the kernel picks)");
  app.add_flag("--raw", a.raw, "TARGET is a raw file or disk");
  app.add_flag("--read-only", o.read_only, "Nothing can be written");
  app.add_option("--connections", o.connections, "Connections to the server (default 4)")
      ->check(CLI::Range(1U, most_connections));
  app.add_option("--block-size", o.block_size, "The device's logical block, in bytes (default 512)")
      ->check(CLI::IsMember({512U, 1024U, 2048U, 4096U}));
  app.add_option("--timeout", o.timeout,
                 "Seconds until an unanswered request is sent again (default 30)")
      ->check(CLI::Range(1U, most_seconds));
  app.add_option("--dead-timeout", o.dead_timeout,
                 "Seconds that I/O waits for a lost server (default 300)")
      ->check(CLI::Range(1U, most_seconds));
  app.add_flag("--no-reconnect", a.no_reconnect,
               "A device whose server is lost fails; a chain needs no writing through then");
  app.add_option("--plugin", o.plugin, "nbdkit's plugin for chains (default: cowchain)");
  app.add_flag("--foreground", a.foreground, "Stay in the foreground");
  CLI::Option* const list = app.add_flag("--list", a.list, "Show what is attached");
  app.add_flag("--json", a.as_json, "With --list: print JSON, sizes in bytes")->needs(list);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  if (::geteuid() != 0) {
    fmt::print(stderr, "nbd-attach: attaching, and seeing what is attached, takes root\n");
    return exit_failed;
  }
  return a.list ? run_list(a) : run_attach(a);
}

}  // namespace
}  // namespace tidepool::tools

int main(int argc, char** argv) { return tidepool::tools::run(argc, argv); }
