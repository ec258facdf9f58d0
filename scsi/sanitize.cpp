#include "scsi/sanitize.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tidepool::scsi {

namespace {

// Small pieces, one at a time: there is no hurry, and the store may have other users.
constexpr std::uint64_t write_piece = std::uint64_t{64} << 10;   // bytes
constexpr std::uint64_t erase_piece = std::uint64_t{256} << 20;  // bytes

}  // namespace

Sanitize::Sanitize(blockdev::IoChannel& channel, std::uint64_t size)
    : channel_(channel), size_(size) {
  request_.owner = this;
  request_.complete = [](blockdev::IoRequest& self, int error) {
    static_cast<Request&>(self).owner->answered(error);
  };
}

std::uint16_t Sanitize::progress() const {
  const double share = (pass_ + (size_ == 0 ? 1.0 : double(position_) / double(size_))) / passes_;
  return static_cast<std::uint16_t>(std::min(65535.0, share * 65536));
}

bool Sanitize::start(Kind kind, std::span<const std::byte> pattern, unsigned passes, bool invert,
                     std::function<void(int)> done) {
  if (kind == Kind::overwrite) {
    piece_ = DataBuffer::allocate(write_piece);
    if (piece_.size() == 0) return false;
  }
  kind_ = kind;
  pattern_.assign(pattern.begin(), pattern.end());
  passes_ = passes;
  invert_ = invert;
  pass_ = 0;
  position_ = 0;
  running_ = true;
  failed_ = false;
  done_ = std::move(done);
  if (kind == Kind::overwrite) fill(false);
  go_on();
  return true;
}

void Sanitize::fill(bool inverted) {
  for (std::size_t at = 0; at < piece_.size(); at += pattern_.size())
    std::memcpy(piece_.data() + at, pattern_.data(), std::min(pattern_.size(), piece_.size() - at));
  if (!inverted) return;
  for (std::byte& byte : piece_.span()) byte = ~byte;
}

// Piece after piece, without a call within a call for each.
void Sanitize::go_on() {
  again_ = true;
  if (going_on_) return;
  going_on_ = true;
  while (std::exchange(again_, false)) next_piece();
  going_on_ = false;
}

void Sanitize::next_piece() {
  if (position_ == size_ && ++pass_ < passes_) {
    position_ = 0;
    fill(invert_ && pass_ % 2 == 1);
  }
  if (stopping_) return end(ECANCELED);
  if (position_ == size_) {
    request_.op = blockdev::IoOp::flush;
    request_.offset = request_.length = 0;
    request_.buffer_count = 0;
    return channel_.submit(request_);
  }
  const bool writing = kind_ == Kind::overwrite;
  request_.op = writing ? blockdev::IoOp::write : blockdev::IoOp::discard;
  request_.offset = position_;
  request_.length = std::min(size_ - position_, writing ? write_piece : erase_piece);
  // What is overwritten is meant to be on the medium, not in a cache before it.
  request_.force_unit_access = writing;
  buffer_ = {piece_.data(), static_cast<std::size_t>(request_.length)};
  request_.buffers = &buffer_;
  request_.buffer_count = writing ? 1 : 0;
  channel_.submit(request_);
}

void Sanitize::answered(int error) {
  if (error != 0 || request_.op == blockdev::IoOp::flush) return end(error);
  position_ += request_.length;
  go_on();
}

void Sanitize::end(int error) {
  running_ = false;
  failed_ = error != 0;
  piece_ = {};
  if (auto done = std::exchange(done_, nullptr)) done(error);
}

}  // namespace tidepool::scsi
