// What a writer promised itself: the operations it issued on a disk and which of
// them an fsync has acknowledged, kept in a log outside the mount.
//
// The log is text, one line per event, written before (I) and after (A) the
// calls; it survives the daemon, whose end is the event under test. From it
// follows, for each sector, what may be read: the last acknowledged content, or
// that of any operation issued after it.
//
// Limits: not for a crash of the host (the log is not flushed).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace judge {

enum class FlushOp : char { write = 'w', punch = 'p' };

struct IssuedOp {
  std::uint64_t sequence = 0;  // also the generation of the stamps written
  FlushOp kind = FlushOp::write;
  std::uint64_t first_sector = 0, sectors = 0;
};

// The content of a sector: the sequence of the write it is from, 0 = zeros.
class ExpectedContent {
 public:
  explicit ExpectedContent(std::uint64_t sectors) : stable_(sectors, 0) {}
  void issue(const IssuedOp& op) { pending_.push_back(op); }
  void acknowledge();  // everything issued is stable now
  bool allows(std::uint64_t sector, std::uint64_t content) const;
  // What was found after a crash is the stable content from then on.
  void settle(std::uint64_t sector, std::uint64_t content) { stable_[sector] = content; }
  void forget_pending() { pending_.clear(); }
  std::uint64_t sectors() const { return stable_.size(); }
  std::uint64_t stable(std::uint64_t sector) const { return stable_[sector]; }

 private:
  std::vector<std::uint64_t> stable_;
  std::vector<IssuedOp> pending_;
};

// Appends events to a log file.
class FlushLog {
 public:
  explicit FlushLog(const std::string& path);
  ~FlushLog();
  FlushLog(const FlushLog&) = delete;
  FlushLog& operator=(const FlushLog&) = delete;
  void issued(const IssuedOp& op);
  void acknowledged();
  void line(const std::string& text);

 private:
  int fd_;
};

// Base file (content per sector at the last settling) and log, read back.
// Returns the highest sequence seen.
std::uint64_t load_expected(const std::string& path, ExpectedContent& content);
// Writes the base file from `content` and empties the log.
void save_expected(const std::string& path, const ExpectedContent& content);

}  // namespace judge
