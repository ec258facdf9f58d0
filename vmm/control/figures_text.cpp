#include "vmm/control/figures_text.h"

#include "base/prometheus_text.h"

namespace tidepool::vmm {

namespace {

using nlohmann::json;

struct Member {
  const char* name;  // in JSON
  Metric metric;
};

// Names are a promise to dashboards: add, do not rename.
constexpr Metric exits_metric{"leanvm_exits_total", "How often the guest was left."};
constexpr const char* exit_reasons[] = {"port", "memory", "other", "interrupted"};

constexpr Member machine_members[] = {
    {"memory_bytes", {"leanvm_memory_bytes", "Memory that the guest has."}},
    {"memory_used_bytes", {"leanvm_memory_used_bytes", "Memory of the host that it takes."}},
    {"balloon_target_bytes",
     {"leanvm_balloon_target_bytes", "Memory that the guest is asked to give back."}},
    {"balloon_bytes", {"leanvm_balloon_bytes", "Memory that it says it gave."}},
    {"released_bytes", {"leanvm_released_bytes_total", "Memory that was given back to the host."}},
};

constexpr Member device_members[] = {
    {"kicks", {"leanvm_device_kicks_total", "Kicks of the driver that were heard."}},
    {"interrupts", {"leanvm_device_interrupts_total", "Interrupts of the device's queues."}},
    {"requests", {"leanvm_device_requests_total", "Requests that were answered."}},
    {"bytes_from_guest",
     {"leanvm_device_from_guest_bytes_total", "Bytes of requests, headers included."}},
    {"bytes_to_guest",
     {"leanvm_device_to_guest_bytes_total", "Bytes of answers, headers included."}},
};

}  // namespace

json to_json(const std::string& name, const MachineFigures& figures) {
  json devices = json::array();
  for (const DeviceFigures& device : figures.devices) {
    json entry = {{"name", device.name}, {"slot", device.slot}, {"interrupts", device.interrupts}};
    if (device.served) {
      entry["kicks"] = device.served->kicks;
      entry["requests"] = device.served->requests;
      entry["bytes_from_guest"] = device.served->bytes_from_guest;
      entry["bytes_to_guest"] = device.served->bytes_to_guest;
    }
    devices.push_back(std::move(entry));
  }
  return {{"name", name},
          {"memory_bytes", figures.memory},
          {"memory_used_bytes", figures.memory_used},
          {"balloon_target_bytes", figures.balloon.target},
          {"balloon_bytes", figures.balloon.held},
          {"released_bytes", figures.balloon.released},
          {"exits",
           {{"port", figures.exits.port},
            {"memory", figures.exits.memory},
            {"other", figures.exits.other},
            {"interrupted", figures.exits.interrupted}}},
          {"devices", std::move(devices)}};
}

std::string prometheus_text(const json& figures) {
  const auto vm = figures.at("name").get<std::string>();
  PrometheusText text;
  text.family(exits_metric);
  for (const char* const reason : exit_reasons) {
    text.sample({{"vm", vm}, {"reason", reason}},
                figures.at("exits").at(reason).get<std::uint64_t>());
  }
  for (const Member& member : machine_members) {
    text.family(member.metric);
    text.sample({{"vm", vm}}, figures.at(member.name).get<std::uint64_t>());
  }
  for (const Member& member : device_members) {
    text.family(member.metric);
    for (const json& device : figures.at("devices")) {
      const auto value = device.find(member.name);
      if (value == device.end()) continue;  // served by another process
      text.sample({{"vm", vm},
                   {"device", device.at("name").get<std::string>()},
                   {"slot", std::to_string(device.at("slot").get<unsigned>())}},
                  value->get<std::uint64_t>());
    }
  }
  return text.text();
}

}  // namespace tidepool::vmm
