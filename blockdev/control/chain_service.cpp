#include "blockdev/control/chain_service.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <chrono>
#include <vector>

#include "blockdev/chain/checkpoint.h"
#include "blockdev/chain/layer_reader.h"
#include "blockdev/chain/merge.h"

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

// The strings `names` of the request's JSON object.
Result<std::vector<std::string>> texts_of(const ControlRequest& request,
                                          std::initializer_list<const char*> names) {
  const json body = json::parse(request.body, nullptr, false);
  std::vector<std::string> texts;
  for (const char* name : names) {
    if (!body.is_object() || !body.contains(name) || !body[name].is_string()) {
      return fail(ErrorKind::invalid_argument, "{}: a JSON object with the string \"{}\" is wanted",
                  request.path, name);
    }
    texts.push_back(body[name]);
  }
  return texts;
}

ErrorKind kind_of(int value) {
  return value >= 0 && value <= static_cast<int>(ErrorKind::io) ? static_cast<ErrorKind>(value)
                                                                : ErrorKind::io;
}

const char* merge_text(MergeState state) {
  switch (state) {
    case MergeState::takes_parent:
      return "takes parent";
    case MergeState::takes_child:
      return "takes child";
    case MergeState::goes_down:
      return "goes down";
    case MergeState::none:
    case MergeState::took_child:
      break;
  }
  return "";
}

}  // namespace

json describe(Chain& chain) {
  json layers = json::array();
  ExtentMap seen;  // what the layers up to this one hold
  std::uint64_t visible = 0;
  for (const std::uint32_t number : chain.order()) {
    LayerFile& layer = chain.layer(number);
    std::uint64_t own = 0, extents = 0;
    for_extents(chain, layer, [&](const Extent& e) {
      seen.remove(e.block, e.end(), [&](const Extent& old) { visible -= old.unwritten ? 0 : old.count; });
      seen.insert({e.block, e.block, e.count, e.unwritten});
      if (!e.unwritten) own += e.count;
      ++extents;
      return true;
    });
    visible += own;
    const LayerHeader header = layer.header_now();
    layers.insert(layers.begin(),
                  json{{"file", layer.name()},
                   {"uuid", to_text(header.uuid)},
                   {"state", header.state == LayerState::sealed ? "sealed" : "active"},
                   {"name", header.name},
                   {"merge", merge_text(header.merge)},
                   {"created", header.created_seconds},
                   {"size", header.size},
                   {"own_bytes", own * block_bytes},
                   {"shared_bytes", (visible - own) * block_bytes},
                   {"extents", extents}});
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

Result<std::unique_ptr<ChainService>> ChainService::start(Chain& chain,
                                                          const std::filesystem::path& top) {
  std::unique_ptr<ChainService> service(new ChainService(chain, top));
  using Request = const ControlRequest&;
  auto* const s = service.get();
  auto server = ControlServer::start(
      socket_path(top),
      {{"GET", "/v1/info",
        [s](Request) -> Result<ControlReply> { return ControlReply{describe(s->chain_).dump()}; }},
       {"GET", "/v1/job", [s](Request) -> Result<ControlReply> { return s->job(); }},
       {"POST", "/v1/checkpoint", [s](Request request) { return s->checkpoint(request); }},
       {"POST", "/v1/commit", [s](Request request) { return s->begin_commit(request); }},
       {"POST", "/v1/delete", [s](Request request) { return s->begin_delete(request); }}});
  if (!server) return std::unexpected(server.error());
  service->server_ = std::move(*server);
  return service;
}

ChainService::~ChainService() {
  server_.reset();
  progress_.stopped.store(true);
  if (worker_.joinable()) worker_.join();
}

Result<ControlReply> ChainService::checkpoint(const ControlRequest& request) {
  auto texts = texts_of(request, {"name", "file"});
  if (!texts) return std::unexpected(texts.error());
  auto alone = chain_.administer();
  if (!alone) return std::unexpected(alone.error());
  auto done = take_checkpoint(local_files(), chain_, top_, (*texts)[0], (*texts)[1]);
  if (!done) return std::unexpected(done.error());
  return ControlReply{json{{"held_us", done->count()}}.dump()};
}

Result<ControlReply> ChainService::begin_commit(const ControlRequest& request) {
  auto texts = texts_of(request, {"copy"});
  if (!texts) return std::unexpected(texts.error());
  return begin([this, copy = (*texts)[0]] {
    return commit_top(local_files(), chain_, top_, copy, progress_);
  });
}

Result<ControlReply> ChainService::begin_delete(const ControlRequest& request) {
  auto texts = texts_of(request, {"name"});
  if (!texts) return std::unexpected(texts.error());
  return begin([this, name = (*texts)[0]] {
    return delete_checkpoint(local_files(), chain_, name, progress_);
  });
}

Result<ControlReply> ChainService::begin(std::function<Result<>()> work) {
  const std::lock_guard lock(mutex_);
  if (running_)
    return fail(ErrorKind::busy, "chain '{}': a commit or deletion is running", chain_.name());
  if (worker_.joinable()) worker_.join();
  running_ = true;
  error_.reset();
  progress_.done.store(0);
  progress_.total.store(0);
  worker_ = std::thread([this, work = std::move(work)] {
    auto done = work();
    const std::lock_guard lock(mutex_);
    running_ = false;
    if (!done) error_ = done.error();
  });
  return ControlReply{"{}"};
}

ControlReply ChainService::job() {
  const std::lock_guard lock(mutex_);
  json out{{"running", running_},
           {"done", progress_.done.load()},
           {"total", progress_.total.load()}};
  if (error_) {
    out["error"] = {{"kind", static_cast<int>(error_->kind)},
                    {"errno", error_->errno_value},
                    {"message", error_->message}};
  }
  return ControlReply{out.dump()};
}

// --- the client ---

Result<json> LiveChain::ask(const char* method, const char* path, const json& body) const {
  auto answer = client_.request(method, path, {}, body.is_null() ? std::string() : body.dump());
  if (!answer) return std::unexpected(answer.error());
  json value = json::parse(*answer, nullptr, false);
  if (!value.is_object()) return fail(ErrorKind::io, "the server's answer makes no sense");
  return value;
}

Result<json> LiveChain::info() const { return ask("GET", "/v1/info"); }

Result<Chain::Held> LiveChain::checkpoint(const std::string& name,
                                          const std::filesystem::path& kept) const {
  auto done = ask("POST", "/v1/checkpoint",
                  {{"name", name}, {"file", std::filesystem::absolute(kept).native()}});
  if (!done) return std::unexpected(done.error());
  return Chain::Held(done->value("held_us", std::int64_t{0}));
}

Result<> LiveChain::commit(const std::filesystem::path& copy, Progress& progress) const {
  const std::string path = copy.empty() ? "" : std::filesystem::absolute(copy).native();
  auto begun = ask("POST", "/v1/commit", {{"copy", path}});
  if (!begun) return std::unexpected(begun.error());
  return wait(progress);
}

Result<> LiveChain::remove(const std::string& name, Progress& progress) const {
  auto begun = ask("POST", "/v1/delete", {{"name", name}});
  if (!begun) return std::unexpected(begun.error());
  return wait(progress);
}

Result<> LiveChain::wait(Progress& progress) const {
  constexpr std::chrono::milliseconds longest{200};
  for (std::chrono::milliseconds pause{2};; pause = std::min(pause * 2, longest)) {
    auto job = ask("GET", "/v1/job");
    if (!job) return std::unexpected(job.error());
    progress.total.store(job->value("total", std::uint64_t{0}));
    progress.done.store(job->value("done", std::uint64_t{0}));
    if (!job->value("running", false)) {
      if (!job->contains("error")) return {};
      const json& error = (*job)["error"];
      return std::unexpected(Error{kind_of(error.value("kind", -1)), error.value("errno", EIO),
                                   error.value("message", std::string())});
    }
    std::this_thread::sleep_for(pause);
  }
}

Result<LiveChain> live_chain(const std::filesystem::path& top) {
  auto client = ControlClient::connect(socket_path(top));
  if (!client) return std::unexpected(client.error());
  return LiveChain(std::move(*client));
}

}  // namespace tidepool::blockdev::chain
