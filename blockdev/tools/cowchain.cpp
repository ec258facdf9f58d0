// cowchain: makes, shows and changes chains of copy-on-write layers.
//
// Exit status: 0 ok, 1 failed (compare: they differ; verify: damage), 2 wrong usage.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <future>
#include <nlohmann/json.hpp>

#include "base/file_limit.h"
#include "base/progress_bar.h"
#include "base/size_text.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/merge.h"
#include "blockdev/chain/store_compare.h"
#include "blockdev/chain/verify.h"
#include "blockdev/control/chain_service.h"
#include "blockdev/stores/nbd_store.h"
#include "blockdev/stores/nfs_uri.h"
#include "blockdev/tools/cowchain_info.h"

namespace tidepool::tools {
namespace {

using namespace blockdev;
using namespace blockdev::chain;
using nlohmann::json;

constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;

struct Arguments {
  std::string top, parent, base, size, name, kept, copy, other;
  bool as_json = false, raw = false;
};

int report(const Error& error) {
  fmt::print(stderr, "cowchain: {}\n", error.message);
  return exit_failed;
}

int run_create(const Arguments& a) {
  NewLayer layer{.path = a.top};
  if (!a.size.empty()) layer.size = *parse_size(a.size);
  layer.parent = a.parent.empty() ? a.base : a.parent;
  if (is_nbd_uri(layer.parent.native()))
    layer.kind = ParentKind::nbd;
  else if (is_nfs_uri(layer.parent.native()))
    layer.kind = ParentKind::nfs;
  else if (!layer.parent.empty())
    layer.kind = a.parent.empty() ? ParentKind::file : ParentKind::layer;
  if (layer.kind == ParentKind::none && layer.size == 0) {
    fmt::print(stderr, "cowchain: create: a layer without --parent and --base needs --size\n");
    return exit_usage;
  }
  auto created = create_layer(local_files(), layer);
  return created ? exit_ok : report(created.error());
}

// Runs `work` on a thread of its own, and a bar here meanwhile.
Result<> with_bar(const char* label, Progress& progress, std::function<Result<>()> work) {
  auto done = std::async(std::launch::async, std::move(work));
  using namespace std::chrono_literals;
  while (done.wait_for(100ms) != std::future_status::ready && progress.total.load() == 0) {
  }
  ProgressBar bar(label, progress.total.load());
  while (done.wait_for(100ms) != std::future_status::ready) bar.update(progress.done.load());
  return done.get();
}

// The chain to be changed: served, or opened here.
struct Changeable {
  std::optional<LiveChain> live;
  std::shared_ptr<Chain> own;
};

Result<Changeable> open_to_change(const std::string& top) {
  auto live = live_chain(top);
  if (live) return Changeable{std::move(*live), nullptr};
  if (live.error().kind != ErrorKind::not_found) return std::unexpected(live.error());
  auto chain = open_chain(local_files(), top, {});
  if (!chain) return std::unexpected(chain.error());
  return Changeable{std::nullopt, std::move(*chain)};
}

Result<std::shared_ptr<Chain>> open_to_read(const std::string& top) {
  auto chain = open_chain(local_files(), top, {.read_only = true});
  if (!chain && chain.error().kind == ErrorKind::busy) {
    return fail(ErrorKind::busy, "{}; take a checkpoint and name that instead",
                chain.error().message);
  }
  return chain;
}

int run_info(const Arguments& a) {
  auto info = chain_info(a.top);
  if (!info) return report(info.error());
  fmt::print("{}", a.as_json ? info->dump(2) + "\n" : show_chain(*info));
  return exit_ok;
}

int run_map(const Arguments& a) {
  auto map = chain_map(a.top);
  if (!map) return report(map.error());
  fmt::print("{}", a.as_json ? map->dump(2) + "\n" : show_map(*map));
  return exit_ok;
}

int run_checkpoint(const Arguments& a) {
  const std::string kept = a.kept.empty() ? a.top + "." + a.name : a.kept;
  auto chain = open_to_change(a.top);
  if (!chain) return report(chain.error());
  auto done = chain->live ? chain->live->checkpoint(a.name, kept)
                          : take_checkpoint(local_files(), *chain->own, a.top, a.name, kept);
  if (!done) return report(done.error());
  if (a.as_json) fmt::print("{}\n", json{{"file", kept}, {"held_us", done->count()}}.dump(2));
  return exit_ok;
}

int run_commit(const Arguments& a) {
  auto chain = open_to_change(a.top);
  if (!chain) return report(chain.error());
  Progress progress;
  auto done = with_bar("commit", progress, [&] {
    return chain->live ? chain->live->commit(a.copy, progress)
                       : commit_top(local_files(), *chain->own, a.top, a.copy, progress);
  });
  return done ? exit_ok : report(done.error());
}

int run_delete(const Arguments& a) {
  auto chain = open_to_change(a.top);
  if (!chain) return report(chain.error());
  Progress progress;
  auto done = with_bar("delete", progress, [&] {
    return chain->live ? chain->live->remove(a.name, progress)
                       : delete_checkpoint(local_files(), *chain->own, a.name, progress);
  });
  return done ? exit_ok : report(done.error());
}

// What `a.other` shall hold: the new file, as a raw one or as a layer.
Result<std::shared_ptr<BlockStore>> open_flat(const Arguments& a, std::uint64_t size) {
  if (a.raw) return local_files().create(a.other, size);
  auto created = create_layer(local_files(), {.path = a.other, .size = size});
  if (!created) return std::unexpected(created.error());
  auto chain = open_chain(local_files(), a.other, {});
  if (!chain) return std::unexpected(chain.error());
  return *chain;
}

int run_flatten(const Arguments& a) {
  auto chain = open_to_read(a.top);
  if (!chain) return report(chain.error());
  auto target = open_flat(a, (*chain)->geometry().size);
  if (!target) return report(target.error());
  Progress progress;
  auto done = with_bar("flatten", progress,
                       [&] { return copy_store(**chain, **target, progress); });
  if (done) done = local_files().sync_directory(a.other);
  if (!done) (void)local_files().remove(a.other);
  return done ? exit_ok : report(done.error());
}

// A layer's chain, or with --raw the file itself.
Result<std::shared_ptr<BlockStore>> open_side(const std::string& path, bool raw) {
  if (raw) return local_files().open(path, true);
  auto chain = open_to_read(path);
  if (!chain) return std::unexpected(chain.error());
  return *chain;
}

int run_compare(const Arguments& a) {
  auto one = open_side(a.top, false);
  if (!one) return report(one.error());
  auto other = open_side(a.other, a.raw);
  if (!other) return report(other.error());
  Progress progress;
  json ranges = json::array();
  std::uint64_t bytes = 0;
  auto done = with_bar("compare", progress, [&] {
    return compare_stores(**one, **other, progress, [&](const Difference& d) {
      bytes += d.length;
      if (a.as_json) ranges.push_back({{"offset", d.offset}, {"length", d.length}});
      if (!a.as_json) fmt::print("differ at {}, {} bytes\n", d.offset, d.length);
      return true;
    });
  });
  if (!done) return report(done.error());
  if (a.as_json) fmt::print("{}\n", json{{"differing_bytes", bytes}, {"ranges", ranges}}.dump(2));
  return bytes == 0 ? exit_ok : exit_failed;
}

int run_verify(const Arguments& a) {
  auto chain = open_to_read(a.top);
  if (!chain) return report(chain.error());
  Progress progress;
  std::uint64_t damaged = 0;
  auto done = with_bar("verify", progress, [&] {
    return verify_chain(**chain, progress, [&](const Error& error) {
      ++damaged;
      fmt::print("{}\n", error.message);
    });
  });
  if (!done) return report(done.error());
  fmt::print("{} checked, {} damaged blocks\n", format_size(progress.done.load()), damaged);
  return damaged == 0 ? exit_ok : exit_failed;
}

std::string size_fault(const std::string& text) {
  auto size = parse_size(text);
  return size ? std::string() : size.error().message;
}

int run(int argc, char** argv) {
  CLI::App app{"Makes, shows and changes chains of copy-on-write layers.", "cowchain"};
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
  CLI::Option* const parent = create.add_option(
      "--parent", a.parent, "The layer to stand on, sealed if active; or a URI, as --base");
  create.add_option("--base", a.base, "The raw file, device, NBD or NFS URI to stand on")
      ->excludes(parent);
  create.add_option("--size", a.size, "Size of the disk (default: the parent's)")
      ->type_name("SIZE")
      ->check(size_fault);
  CLI::App& info = *verb("info", "Show a chain's layers", run_info);
  info.add_flag("--json", a.as_json, "Print JSON, sizes in bytes");
  CLI::App& map = *verb("map", "Show where each range of the disk lies", run_map);
  map.add_flag("--json", a.as_json, "Print JSON");
  CLI::App& checkpoint =
      *verb("checkpoint", "Keep the disk as it is now, go on in a new top layer", run_checkpoint);
  checkpoint.add_option("NAME", a.name, "The checkpoint's name")->required();
  checkpoint.add_option("--file", a.kept, "Where it is kept (default: TOP.NAME)");
  checkpoint.add_flag("--json", a.as_json, "Print JSON: how long writes waited, in us");
  CLI::App& commit = *verb("commit", "Write the top's blocks into its parent", run_commit);
  commit.add_option("--copy-first", a.copy, "Copy the parent to this file before");
  CLI::App& remove = *verb("delete", "Take a checkpoint out of the chain", run_delete);
  remove.add_option("NAME", a.name, "The checkpoint's name, or its file's")->required();
  CLI::App& flatten = *verb("flatten", "Copy the disk into one new layer or file", run_flatten);
  flatten.add_option("FILE", a.other, "The new file")->required();
  flatten.add_flag("--raw", a.raw, "Make a raw file, not a layer");
  CLI::App& compare = *verb("compare", "Compare two disks", run_compare);
  compare.add_option("OTHER", a.other, "The other chain's top layer")->required();
  compare.add_flag("--raw", a.raw, "OTHER is a raw file or device");
  compare.add_flag("--json", a.as_json, "Print JSON");
  verb("verify", "Check every block of every layer", run_verify);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  raise_file_limit();
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
