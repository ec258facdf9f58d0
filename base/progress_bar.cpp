#include "base/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace tidepool {

namespace {

using namespace std::chrono_literals;

constexpr auto quiet_time = 1s;  // shorter work shows nothing
constexpr auto redraw_interval = 100ms;
constexpr unsigned least_bar = 8;

unsigned terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string time_text(std::chrono::duration<double> time) {
  const auto seconds = static_cast<std::uint64_t>(std::clamp(time.count(), 0.0, 359999.0));
  if (seconds >= 3600) {
    return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
  }
  return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
}

}  // namespace

ProgressBar::ProgressBar(std::string label, std::uint64_t total)
    : label_(std::move(label)),
      total_(total),
      start_(Clock::now()),
      terminal_(::isatty(STDERR_FILENO) == 1),
      next_draw_(start_ + quiet_time) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::update(std::uint64_t done) {
  if (!terminal_) return;
  const auto now = Clock::now();
  if (now < next_draw_) return;
  next_draw_ = now + redraw_interval;
  const auto line = render(label_, done, total_, now - start_, terminal_width());
  std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

std::string ProgressBar::render(const std::string& label, std::uint64_t done, std::uint64_t total,
                                std::chrono::duration<double> elapsed, unsigned width) {
  if (total == 0) return fmt::format("{} {} {}", label, done, time_text(elapsed));
  const double part = static_cast<double>(std::min(done, total)) / static_cast<double>(total);
  auto tail = fmt::format(" {:3.0f} %", part * 100);
  if (part > 0.01) tail += fmt::format(", {} left", time_text(elapsed / part - elapsed));
  const std::size_t taken = label.size() + tail.size() + 4;  // " [", "]" and the last column
  if (taken + least_bar > width) return label + tail;
  const std::size_t room = width - taken;
  const auto filled = static_cast<std::size_t>(part * static_cast<double>(room));
  return fmt::format("{} [{}{}]{}", label, std::string(filled, '#'),
                     std::string(room - filled, '.'), tail);
}

}  // namespace tidepool
