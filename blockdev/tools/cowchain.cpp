// cowchain: makes and shows chains of copy-on-write layers.
//
// Exit status: 0 ok, 1 failed, 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/size_text.h"
#include "base/text_table.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/control/chain_service.h"
#include "blockdev/stores/nbd_store.h"

namespace tidepool::tools {
namespace {

using namespace blockdev;
using namespace blockdev::chain;
using nlohmann::json;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;

struct Arguments {
  std::string top, parent, base, size, name, kept;
  bool as_json = false;
};

int report(const Error& error) {
  fmt::print(stderr, "cowchain: {}\n", error.message);
  return exit_failed;
}

int run_create(const Arguments& a) {
  NewLayer layer{.path = a.top};
  if (!a.size.empty()) layer.size = *parse_size(a.size);
  if (!a.parent.empty()) layer.kind = ParentKind::layer;
  if (!a.base.empty()) layer.kind = is_nbd_uri(a.base) ? ParentKind::nbd : ParentKind::file;
  layer.parent = a.parent.empty() ? a.base : a.parent;
  if (layer.kind == ParentKind::none && layer.size == 0) {
    fmt::print(stderr, "cowchain: create: a layer without --parent and --base needs --size\n");
    return exit_usage;
  }
  auto created = create_layer(layer);
  return created ? exit_ok : report(created.error());
}

std::string created_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  std::array<char, 32> text{};
  if (!::localtime_r(&time, &parts)) return "?";
  return {text.data(), std::strftime(text.data(), text.size(), "%F %T", &parts)};
}

Result<json> info_of(const Arguments& a) {
  auto live = live_chain(a.top);
  if (live) return live->info();
  if (live.error().kind != ErrorKind::not_found) return std::unexpected(live.error());
  auto chain = open_chain(a.top, {.read_only = true});
  if (!chain) return std::unexpected(chain.error());
  return describe(**chain);
}

int run_info(const Arguments& a) {
  auto described = info_of(a);
  if (!described) return report(described.error());
  if (a.as_json) {
    fmt::print("{}\n", described->dump(2));
    return exit_ok;
  }
  TextTable table({{"layer"},
                   {"checkpoint"},
                   {"state"},
                   {"size", TextTable::Align::right},
                   {"own", TextTable::Align::right},
                   {"created"}});
  for (const json& layer : (*described)["layers"]) {
    table.add({printable(layer["file"]), printable(layer["name"]), layer["state"],
               format_size(layer["size"]), format_size(layer["own_bytes"]),
               created_text(layer["created"])});
  }
  if (described->contains("base")) {
    const json& base = (*described)["base"];
    table.add({printable(base["file"]), "", "base", format_size(base["size"]), "", ""});
  }
  fmt::print("{}", table.render());
  return exit_ok;
}

int run_checkpoint(const Arguments& a) {
  const std::string kept = a.kept.empty() ? a.top + "." + a.name : a.kept;
  auto live = live_chain(a.top);
  if (!live && live.error().kind != ErrorKind::not_found) return report(live.error());
  auto done = live ? live->checkpoint(a.name, kept) : checkpoint_offline(a.top, a.name, kept);
  return done ? exit_ok : report(done.error());
}

std::string size_fault(const std::string& text) {
  auto size = parse_size(text);
  return size ? std::string() : size.error().message;
}

int run(int argc, char** argv) {
  CLI::App app{"Makes and shows chains of copy-on-write layers.", "cowchain"};
  app.set_version_flag("--version", TIDEPOOL_VERSION);
  app.require_subcommand(1);
  Arguments a;
  int (*chosen)(const Arguments&) = nullptr;
  const auto verb = [&](const char* name, const char* help, int (*function)(const Arguments&)) {
    CLI::App* const sub = app.add_subcommand(name, help);
    sub->callback([&chosen, function] { chosen = function; });
    sub->add_option("TOP", a.top, "The chain's top layer")->required();
    return sub;
  };
  CLI::App& create = *verb("create", "Make an empty layer", run_create);
  CLI::Option* const parent =
      create.add_option("--parent", a.parent, "The layer to stand on; it is sealed if active");
  create.add_option("--base", a.base, "The raw file, device or NBD URI to stand on")->excludes(parent);
  create.add_option("--size", a.size, "Size of the disk (default: the parent's)")
      ->type_name("SIZE")
      ->check(size_fault);
  CLI::App& info = *verb("info", "Show a chain's layers", run_info);
  info.add_flag("--json", a.as_json, "Print JSON, sizes in bytes");
  CLI::App& checkpoint =
      *verb("checkpoint", "Keep the disk as it is now, go on in a new top layer", run_checkpoint);
  checkpoint.add_option("NAME", a.name, "The checkpoint's name")->required();
  checkpoint.add_option("--file", a.kept, "Where it is kept (default: TOP.NAME)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  const int status = chosen(a);
  if (status == exit_ok && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) {
    fmt::print(stderr, "cowchain: cannot write the answer to its output\n");
    return exit_failed;
  }
  return status;
}

}  // namespace
}  // namespace tidepool::tools

int main(int argc, char** argv) { return tidepool::tools::run(argc, argv); }
