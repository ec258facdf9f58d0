#include "fs/control/control_service.h"

#include "base/prometheus_text.h"
#include "fs/control/prometheus.h"

namespace tidepool::control {
namespace {

using nlohmann::json;

Result<ControlReply> reply_with(const Result<json>& value) {
  if (!value) return std::unexpected(value.error());
  return ControlReply{to_text(*value)};
}

Result<ControlReply> map_route(PoolControl& control, const ControlRequest& request) {
  const auto disk = request.parameters.find("disk");
  if (disk == request.parameters.end())
    return fail(ErrorKind::invalid_argument, "{}: name the disk, as in ?disk=vm1/scratch.img",
                request.path);
  return reply_with(control.map(disk->second));
}

Result<ControlReply> metrics_route(PoolControl& control) {
  const auto figures = control.stat();
  if (!figures) return std::unexpected(figures.error());
  return ControlReply{prometheus_text(*figures), PrometheusText::content_type};
}

Result<ControlReply> vm_route(PoolControl& control, const ControlRequest& request) {
  const auto changes = parse_vm_changes(request.body);
  if (!changes) return std::unexpected(changes.error());
  return reply_with(control.set_vm(request.name, *changes));
}

Result<ControlReply> grow_route(PoolControl& control, const ControlRequest& request) {
  const auto size = parse_grow(request.body);
  if (!size) return std::unexpected(size.error());
  return reply_with(control.grow(*size));
}

std::vector<ControlRoute> routes_of(PoolControl& control) {
  using Request = const ControlRequest&;
  return {
      {"GET", "/v1/info", [&](Request) { return reply_with(control.info()); }},
      {"GET", "/v1/list", [&](Request) { return reply_with(control.list()); }},
      {"GET", "/v1/stat", [&](Request) { return reply_with(control.stat()); }},
      {"GET", "/v1/map", [&](Request request) { return map_route(control, request); }},
      {"GET", "/v1/metrics", [&](Request) { return metrics_route(control); }},
      {"PUT", "/v1/vm/*", [&](Request request) { return vm_route(control, request); }},
      {"POST", "/v1/grow", [&](Request request) { return grow_route(control, request); }},
  };
}

}  // namespace

std::string control_socket_path(const std::string& uuid) {
  return fmt::format("{}/{}.sock", control_directory("elasticfs"), uuid);
}

std::vector<std::string> control_socket_candidates(const std::string& uuid) {
  std::vector<std::string> paths{control_socket_path(uuid)};
  if (auto roots = fmt::format("/run/elasticfs/{}.sock", uuid); roots != paths.front())
    paths.push_back(std::move(roots));
  return paths;
}

Result<std::unique_ptr<ControlService>> start_control(pool::Pool& pool, blockdev::FileStore& store,
                                                      PoolContext context) {
  const std::string socket_path = control_socket_path(pool.figures().uuid);
  auto service =
      std::unique_ptr<ControlService>(new ControlService(pool, store, std::move(context)));
  auto server = ControlServer::start(socket_path, routes_of(service->control_));
  if (!server) return std::unexpected(server.error());
  service->server_ = std::move(*server);
  return service;
}

}  // namespace tidepool::control
