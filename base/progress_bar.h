// A progress bar on stderr, for work longer than a second and on a terminal
// only: scripts and logs never see it.
//
// One thread at a time; update() is cheap enough for every step of a loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace tidepool {

class ProgressBar {
 public:
  // total: steps until done (bytes, records, ...); 0 when unknown.
  ProgressBar(std::string label, std::uint64_t total);
  ~ProgressBar();  // wipes the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::uint64_t done);

  // The line for a state, without the terminal's control codes.
  static std::string render(const std::string& label, std::uint64_t done, std::uint64_t total,
                            std::chrono::duration<double> elapsed, unsigned width);

 private:
  using Clock = std::chrono::steady_clock;

  const std::string label_;
  const std::uint64_t total_;
  const Clock::time_point start_;
  const bool terminal_;
  Clock::time_point next_draw_;
  bool drawn_ = false;
};

}  // namespace tidepool
