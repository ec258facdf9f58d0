#include "tests/integration/flush_log.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "tests/lib/judge.h"

namespace judge {
namespace {

std::uint64_t content_of(const IssuedOp& op) { return op.kind == FlushOp::write ? op.sequence : 0; }

}  // namespace

void ExpectedContent::acknowledge() {
  for (const auto& op : pending_)
    std::fill_n(stable_.begin() + static_cast<std::ptrdiff_t>(op.first_sector), op.sectors,
                content_of(op));
  pending_.clear();
}

bool ExpectedContent::allows(std::uint64_t sector, std::uint64_t content) const {
  if (stable_[sector] == content) return true;
  return std::ranges::any_of(pending_, [&](const IssuedOp& op) {
    return content_of(op) == content && sector >= op.first_sector &&
           sector < op.first_sector + op.sectors;
  });
}

FlushLog::FlushLog(const std::string& path)
    : fd_(open((path + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) die("cannot open the log %s: %s", path.c_str(), std::strerror(errno));
}

FlushLog::~FlushLog() { close(fd_); }

void FlushLog::issued(const IssuedOp& op) {
  line("I " + std::to_string(op.sequence) + ' ' + static_cast<char>(op.kind) + ' ' +
       std::to_string(op.first_sector) + ' ' + std::to_string(op.sectors));
}

void FlushLog::acknowledged() { line("A"); }

void FlushLog::line(const std::string& text) {
  const std::string with_end = text + "\n";
  if (write(fd_, with_end.data(), with_end.size()) != static_cast<ssize_t>(with_end.size()))
    die("cannot write the log: %s", std::strerror(errno));
}

std::uint64_t load_expected(const std::string& path, ExpectedContent& content) {
  std::uint64_t highest = 0;
  if (std::ifstream base(path + ".base", std::ios::binary); base) {
    for (std::uint64_t sector = 0; sector < content.sectors(); sector++) {
      std::uint64_t value = 0;
      if (!base.read(reinterpret_cast<char*>(&value), sizeof value))
        die("%s.base is short", path.c_str());
      content.settle(sector, value);
      highest = std::max(highest, value);
    }
  }
  std::ifstream log(path + ".log");
  for (std::string line; std::getline(log, line);) {
    std::istringstream words(line);
    char event = 0, kind = 0;
    words >> event;
    if (event == 'A') {
      content.acknowledge();
      continue;
    }
    IssuedOp op;
    words >> op.sequence >> kind >> op.first_sector >> op.sectors;
    if (!words || event != 'I') die("%s.log: cannot read '%s'", path.c_str(), line.c_str());
    op.kind = static_cast<FlushOp>(kind);
    content.issue(op);
    highest = std::max(highest, op.sequence);
  }
  return highest;
}

void save_expected(const std::string& path, const ExpectedContent& content) {
  std::ofstream base(path + ".base", std::ios::binary | std::ios::trunc);
  for (std::uint64_t sector = 0; sector < content.sectors(); sector++) {
    const std::uint64_t value = content.stable(sector);
    base.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
  if (!base.flush()) die("cannot write %s.base", path.c_str());
  std::ofstream(path + ".log", std::ios::trunc);
}

}  // namespace judge
