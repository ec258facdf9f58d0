// Figures in Prometheus' text format: families of samples, one after the other.
//
//   PrometheusText text;
//   text.family({"elasticfs_commits_total", "Commits since the pool was opened."});
//   text.sample({{"pool", uuid}}, 7);
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace tidepool {

struct Metric {
  const char* name;  // "..._total": a counter, else a gauge
  const char* help;
};

class PrometheusText {
 public:
  void family(const Metric& metric);
  // Of the last family. Labels' values may be any text.
  void sample(std::initializer_list<std::pair<std::string_view, std::string_view>> labels,
              std::uint64_t value);
  const std::string& text() const { return text_; }

  static constexpr const char* content_type = "text/plain; version=0.0.4";

 private:
  std::string_view name_;
  std::string text_;
};

}  // namespace tidepool
