#include "blockdev/control/chain_service.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blockdev/chain/chain_files.h"

namespace tidepool::blockdev::chain {

using nlohmann::json;

namespace {

std::string socket_path(const std::filesystem::path& top) {
  std::error_code ignored;
  auto path = std::filesystem::canonical(top, ignored);
  if (path.empty()) path = std::filesystem::absolute(top);
  const std::string& text = path.native();
  return fmt::format("{}/{:016x}.sock", control_directory("cowchain"),
                     XXH3_64bits(text.data(), text.size()));
}

Result<ControlReply> checkpoint_route(Chain& chain, const std::filesystem::path& top,
                                      const ControlRequest& request) {
  const json body = json::parse(request.body, nullptr, false);
  const bool sane = body.is_object() && body.contains("name") && body["name"].is_string() &&
                    body.contains("file") && body["file"].is_string();
  if (!sane) {
    return fail(ErrorKind::invalid_argument, "{}: a JSON object with \"name\" and \"file\" is wanted",
                request.path);
  }
  auto done = checkpoint_live(chain, top, body["name"], body["file"].get<std::string>());
  if (!done) return std::unexpected(done.error());
  return ControlReply{"{}"};
}

}  // namespace

json describe(Chain& chain) {
  json layers = json::array();
  const std::uint32_t count = chain.layers();
  for (std::uint32_t i = count; i-- > 0;) {
    LayerFile& layer = chain.layer(i);
    const LayerHeader header = layer.header_now();
    const std::lock_guard lock(chain.lock());
    layers.push_back({{"file", layer.name()},
                      {"uuid", to_text(header.uuid)},
                      {"state", header.state == LayerState::sealed ? "sealed" : "active"},
                      {"name", header.name},
                      {"created", header.created_seconds},
                      {"size", header.size},
                      {"own_bytes", layer.map().slots_used() * block_bytes},
                      {"extents", layer.map().extents().size()}});
  }
  const std::lock_guard lock(chain.lock());
  json out{{"size", chain.geometry().size},
           {"layers", layers},
           {"extents", chain.index().extents()},
           {"index_memory_bytes", chain.index().memory_bytes()}};
  if (BlockStore* const base = chain.base())
    out["base"] = {{"file", base->name()}, {"size", chain.base_size()}};
  return out;
}

Result<std::unique_ptr<ControlServer>> serve_control(Chain& chain,
                                                     const std::filesystem::path& top) {
  using Request = const ControlRequest&;
  return ControlServer::start(
      socket_path(top),
      {{"GET", "/v1/info",
        [&chain](Request) -> Result<ControlReply> { return ControlReply{describe(chain).dump()}; }},
       {"POST", "/v1/checkpoint",
        [&chain, top](Request request) { return checkpoint_route(chain, top, request); }}});
}

Result<json> LiveChain::info() const {
  auto body = client_.request("GET", "/v1/info");
  if (!body) return std::unexpected(body.error());
  json value = json::parse(*body, nullptr, false);
  if (value.is_discarded()) return fail(ErrorKind::io, "the server's answer makes no sense");
  return value;
}

Result<> LiveChain::checkpoint(const std::string& name, const std::filesystem::path& kept) const {
  const json body{{"name", name}, {"file", std::filesystem::absolute(kept).native()}};
  auto done = client_.request("POST", "/v1/checkpoint", {}, body.dump());
  if (!done) return std::unexpected(done.error());
  return {};
}

Result<LiveChain> live_chain(const std::filesystem::path& top) {
  auto client = ControlClient::connect(socket_path(top));
  if (!client) return std::unexpected(client.error());
  return LiveChain(std::move(*client));
}

}  // namespace tidepool::blockdev::chain
