#include "base/prometheus_text.h"

#include <fmt/format.h>

namespace tidepool {

namespace {

std::string escape_label(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out;
}

}  // namespace

void PrometheusText::family(const Metric& metric) {
  name_ = metric.name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", metric.name, metric.help, metric.name,
                       name_.ends_with("_total") ? "counter" : "gauge");
}

void PrometheusText::sample(
    std::initializer_list<std::pair<std::string_view, std::string_view>> labels,
    std::uint64_t value) {
  text_ += name_;
  char separator = '{';
  for (const auto& [label, of] : labels) {
    text_ += fmt::format("{}{}=\"{}\"", separator, label, escape_label(of));
    separator = ',';
  }
  text_ += fmt::format("{}{}\n", labels.size() > 0 ? "} " : " ", value);
}

}  // namespace tidepool
