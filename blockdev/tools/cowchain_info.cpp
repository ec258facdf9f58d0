#include "blockdev/tools/cowchain_info.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <utility>
#include <vector>

#include "base/size_text.h"
#include "base/text_table.h"
#include "blockdev/chain/chain_files.h"
#include "blockdev/control/chain_service.h"

namespace tidepool::tools {

using namespace blockdev;
using namespace blockdev::chain;
using nlohmann::json;

namespace {

namespace fs = std::filesystem;

Result<json> describe_chain(const std::string& top) {
  auto live = live_chain(top);
  if (live) return live->info();
  if (live.error().kind != ErrorKind::not_found) return std::unexpected(live.error());
  auto chain = open_chain(local_files(), top, {.read_only = true});
  if (!chain) return std::unexpected(chain.error());
  return describe(**chain);
}

// The layers of the directories that a chain is in, each read once.
class Neighbours {
 public:
  // Those that stand on the layer `uuid` at `path`, or on the raw file there (`uuid`
  // empty), and are not `child`.
  json on(const std::string& path, const std::string& uuid, const std::string& child) {
    json others = json::array();
    for (const auto& [other, header] : beside(path)) {
      const ParentReference& parent = header.parent;
      const bool stands = uuid.empty() ? parent.kind == ParentKind::file &&
                                             local_files().same(parent_path(other, parent), path)
                                       : parent.kind == ParentKind::layer && to_text(parent.uuid) == uuid;
      if (stands && to_text(header.uuid) != child)
        others.push_back({{"file", other.native()}, {"name", header.name}});
    }
    return others;
  }

 private:
  using Layers = std::vector<std::pair<fs::path, LayerHeader>>;
  const Layers& beside(const fs::path& path) {
    const auto [place, fresh] = directories_.try_emplace(path.parent_path());
    if (!fresh) return place->second;
    const auto files = local_files().beside(path);
    if (!files) return place->second;
    for (const fs::path& file : *files) {
      auto header = read_layer_header(local_files(), file);
      if (header) place->second.emplace_back(file, std::move(*header));
    }
    return place->second;
  }
  std::map<fs::path, Layers> directories_;
};

std::string created_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  std::array<char, 32> text{};
  if (!::localtime_r(&time, &parts)) return "?";
  return {text.data(), std::strftime(text.data(), text.size(), "%F %T", &parts)};
}

std::string state_text(const json& layer) {
  const std::string merge = layer["merge"];
  return merge.empty() ? std::string(layer["state"]) : merge;
}

}  // namespace

Result<json> chain_info(const std::string& top) {
  auto info = describe_chain(top);
  if (!info) return info;
  Neighbours neighbours;
  std::string child;
  for (json& layer : (*info)["layers"]) {
    layer["others"] = neighbours.on(layer["file"], layer["uuid"], child);
    child = layer["uuid"];
  }
  if (info->contains("base"))
    (*info)["base"]["others"] = neighbours.on((*info)["base"]["file"], "", child);
  return info;
}

std::string show_chain(const json& info) {
  using Align = TextTable::Align;
  TextTable table({{"layer"},
                   {"checkpoint"},
                   {"state"},
                   {"size", Align::right},
                   {"own", Align::right},
                   {"shared", Align::right},
                   {"created"}});
  const auto add_others = [&](const json& layer) {
    for (const json& other : layer["others"])
      table.add({"+ " + printable(other["file"]), printable(other["name"]), "stands on it", "", "", "", ""});
  };
  for (const json& layer : info["layers"]) {
    table.add({printable(layer["file"]), printable(layer["name"]), state_text(layer),
               format_size(layer["size"]), format_size(layer["own_bytes"]),
               format_size(layer["shared_bytes"]), created_text(layer["created"])});
    add_others(layer);
  }
  if (info.contains("base")) {
    const json& base = info["base"];
    table.add({printable(base["file"]), "", "base", format_size(base["size"]), "", "", ""});
    add_others(base);
  }
  return table.render();
}

Result<json> chain_map(const std::string& top) {
  auto chain = open_chain(local_files(), top, {.read_only = true});
  if (!chain) return std::unexpected(chain.error());
  const auto order = (*chain)->order();
  const std::uint64_t size = (*chain)->geometry().size;
  json ranges = json::array();
  (*chain)->index().for_range(0, (size + block_bytes - 1) / block_bytes, [&](const ChainPiece& p) {
    const std::uint64_t offset = p.block * block_bytes;
    json range{{"offset", offset}, {"length", std::min(p.count * block_bytes, size - offset)}};
    if (p.kind == ChainPiece::Kind::data) {
      LayerFile& layer = (*chain)->layer(p.layer);
      const auto place = std::find(order.begin(), order.end(), p.layer);
      range["kind"] = "data";
      range["depth"] = order.end() - place - 1;
      range["file"] = layer.name();
      range["file_offset"] = layer.data_offset(p.slot);
    } else if (p.kind == ChainPiece::Kind::absent && offset < (*chain)->base_size()) {
      range["kind"] = "base";
      range["depth"] = order.size();
      range["file"] = (*chain)->base()->name();
      range["file_offset"] = offset;
    } else {
      range["kind"] = "zero";
    }
    ranges.push_back(std::move(range));
    return true;
  });
  return ranges;
}

std::string show_map(const json& map) {
  using Align = TextTable::Align;
  TextTable table({{"offset", Align::right},
                   {"length", Align::right},
                   {"kind"},
                   {"depth", Align::right},
                   {"file offset", Align::right},
                   {"file"}});
  for (const json& range : map) {
    const bool placed = range.contains("file");
    table.add({std::to_string(range["offset"].get<std::uint64_t>()),
               std::to_string(range["length"].get<std::uint64_t>()), range["kind"],
               placed ? std::to_string(range["depth"].get<std::uint64_t>()) : "",
               placed ? std::to_string(range["file_offset"].get<std::uint64_t>()) : "",
               placed ? printable(range["file"]) : ""});
  }
  return table.render();
}

}  // namespace tidepool::tools
