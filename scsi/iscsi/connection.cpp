#include "scsi/iscsi/connection.h"

#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "scsi/iscsi/crc32c.h"
#include "scsi/iscsi/socket_names.h"

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::size_t stream_bytes = 128 * 1024;
constexpr std::size_t most_login_text = 64 * 1024;
constexpr std::size_t challenge_bytes = 1 + 24;

std::vector<std::byte> random_bytes(std::size_t size) {
  std::vector<std::byte> out(size);
  std::size_t got = 0;
  while (got < size) {
    const ssize_t more = ::getrandom(&out[got], size - got, 0);
    if (more > 0) got += static_cast<std::size_t>(more);
  }
  return out;
}

// On the wire a digest is the register, low byte first.
void store_digest(std::byte* to, std::uint32_t crc) {
  for (unsigned i = 0; i < digest_bytes; ++i) to[i] = static_cast<std::byte>(crc >> (8 * i) & 0xff);
}
bool digest_matches(const std::byte* stored, std::uint32_t crc) {
  std::byte expected[digest_bytes];
  store_digest(expected, crc);
  return std::memcmp(stored, expected, digest_bytes) == 0;
}

}  // namespace

Connection::Connection(EventLoop& loop, ConnectionOwner& owner, UniqueFd socket, std::string peer)
    : loop_(loop),
      owner_(owner),
      socket_(std::move(socket)),
      peer_(std::move(peer)),
      stream_(stream_bytes) {
  receiving_slot_.connection = sending_slot_.connection = this;
  receiving_slot_.on_complete = [](Operation& self, int result, unsigned) {
    static_cast<Slot&>(self).connection->received(result);
  };
  sending_slot_.on_complete = [](Operation& self, int result, unsigned) {
    static_cast<Slot&>(self).connection->sent(result);
  };
}

Connection::~Connection() = default;

void Connection::start() {
  login_ = std::make_unique<Login>(owner_.policy(), owner_.new_session_handle(),
                                   random_bytes(challenge_bytes));
  receive_more();
}

void Connection::end() {
  if (ending_) return;
  ending_ = true;
  // What is under way in the kernel ends by this.
  ::shutdown(socket_.get(), SHUT_RDWR);
  settle_end();
}

void Connection::end_session() {
  session_.reset();
  end();
}

void Connection::settle_end() {
  if (!ending_ || receiving_ || sending_ || processing_ || told_) return;
  told_ = true;
  owner_.ended(*this);
}

void Connection::close_when_sent() {
  close_when_sent_ = true;
  if (queue_.empty()) end();
}

std::string Connection::local_address() const { return local_name(socket_.get()); }

void Connection::broken(const Error& error) {
  log().info("iSCSI: {}: {}", peer_, error.message);
  end();
}

void Connection::receive_more() {
  if (ending_ || receiving_) return;
  unsigned count = 0;
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ > 0) {
    std::memmove(stream_.data(), &stream_[begin_], end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  const std::size_t missing = in_data_ ? header_.data_length() - data_received_ : 0;
  if (missing > 0) {
    std::byte* to = nullptr;
    if (destination_.discard) {
      thrown_away_.resize(our_segment_length);
      to = thrown_away_.data();
    } else {
      to = destination_.memory.data() + destination_.offset + data_received_;
    }
    receive_buffers_[count++] = {to, missing};
  }
  receive_buffers_[count++] = {&stream_[end_], stream_.size() - end_};
  receive_message_ = {};
  receive_message_.msg_iov = receive_buffers_.data();
  receive_message_.msg_iovlen = count;
  receiving_ = true;
  io_uring_prep_recvmsg(loop_.prepare(receiving_slot_), socket_.get(), &receive_message_, 0);
}

void Connection::received(int result) {
  receiving_ = false;
  if (ending_) return settle_end();
  if (result == -EINTR || result == -EAGAIN) return receive_more();
  if (result <= 0) return end();
  auto got = static_cast<std::size_t>(result);
  const std::size_t missing = in_data_ ? header_.data_length() - data_received_ : 0;
  const std::size_t direct = std::min(got, missing);
  data_received_ += direct;
  end_ += got - direct;
  process();
  receive_more();
}

void Connection::process() {
  processing_ = true;
  while (!ending_ && (in_data_ ? take_data() : take_header())) {
  }
  processing_ = false;
  flush();
  settle_end();
}

// True: there may be more to do.
bool Connection::take_header() {
  const std::span<const std::byte> there(&stream_[begin_], end_ - begin_);
  if (there.size() < header_bytes) return false;
  std::copy_n(there.begin(), header_bytes, header_.bytes.begin());
  const std::size_t extra = header_.extra_header_length();
  const std::size_t digest = header_digest_ ? digest_bytes : 0;
  if (there.size() < header_bytes + extra + digest) return false;
  const auto whole = there.first(header_bytes + extra);
  if (header_digest_ && !digest_matches(&there[whole.size()], crc32c(0, whole))) {
    broken({ErrorKind::corrupt, EBADMSG, "a header does not match its digest"});
    return false;
  }
  extra_header_.assign(whole.begin() + header_bytes, whole.end());
  begin_ += whole.size() + digest;
  if (auto begun = begin_pdu(); !begun) {
    broken(begun.error());
    return false;
  }
  return true;
}

Result<> Connection::begin_pdu() {
  const std::size_t length = header_.data_length();
  destination_ = {};
  if (session_) {
    auto destination = session_->begin(header_, extra_header_);
    if (!destination) return std::unexpected(destination.error());
    destination_ = std::move(*destination);
  } else {
    if (!extra_header_.empty() || length > most_login_text)
      return fail(ErrorKind::invalid_argument, "a login request that is too long");
    destination_.memory = DataBuffer::allocate(length);
  }
  if (!destination_.discard && destination_.memory.size() < destination_.offset + length)
    return fail(ErrorKind::io, "no memory for {} bytes of data", length);
  in_data_ = true;
  data_received_ = trailer_received_ = 0;
  trailer_size_ = padded(length) - length + (data_digest_ && length > 0 ? digest_bytes : 0);
  return {};
}

bool Connection::take_data() {
  const std::size_t length = header_.data_length();
  const std::size_t piece = std::min(length - data_received_, end_ - begin_);
  if (piece > 0) {
    if (!destination_.discard)
      std::memcpy(destination_.memory.data() + destination_.offset + data_received_,
                  &stream_[begin_], piece);
    data_received_ += piece;
    begin_ += piece;
  }
  if (data_received_ < length) return false;
  const std::size_t rest = std::min(trailer_size_ - trailer_received_, end_ - begin_);
  std::copy_n(stream_.begin() + static_cast<std::ptrdiff_t>(begin_), rest,
              trailer_.begin() + static_cast<std::ptrdiff_t>(trailer_received_));
  trailer_received_ += rest;
  begin_ += rest;
  if (trailer_received_ < trailer_size_) return false;
  in_data_ = false;
  if (auto finished = finish_pdu(); !finished) {
    broken(finished.error());
    return false;
  }
  return true;
}

Result<> Connection::finish_pdu() {
  const std::size_t length = header_.data_length();
  std::span<const std::byte> data;
  if (length > 0 && !destination_.discard)
    data = std::span(destination_.memory.data() + destination_.offset, length);
  if (data_digest_ && !data.empty()) {
    const std::size_t padding = padded(length) - length;
    std::uint32_t crc = crc32c(0, data);
    crc = crc32c(crc, std::span(trailer_).first(padding));
    if (!digest_matches(&trailer_[padding], crc))
      return fail(ErrorKind::corrupt, "data does not match its digest");
  }
  return session_ ? session_->receive(header_, data) : answer_login(data);
}

Result<> Connection::answer_login(std::span<const std::byte> text) {
  LoginReply reply = login_->answer(header_, text);
  OutPdu pdu;
  pdu.header = reply.header;
  pdu.own = std::move(reply.text);
  send(std::move(pdu));
  if (reply.status != LoginStatus::success) {
    log().info("iSCSI: {}: login of '{}' refused, status {:#06x}", peer_, login_->initiator(),
               static_cast<unsigned>(reply.status));
    close_when_sent();
    return {};
  }
  if (!reply.finished) return {};
  const SessionIdentity identity{login_->initiator(), login_->isid(), login_->discovery()};
  owner_.logged_in(*this, identity);
  session_ = std::make_unique<Session>(owner_.target_side(), *this, *login_);
  header_digest_ = login_->parameters().header_digest;
  data_digest_ = login_->parameters().data_digest;
  login_.reset();
  return {};
}

void Connection::send(OutPdu pdu) {
  if (ending_) return;
  Outgoing& out = queue_.emplace_back();
  out.pdu = std::move(pdu);
  std::ranges::copy(out.pdu.header.bytes, out.header.begin());
  if (header_digest_) {
    store_digest(&out.header[header_bytes], crc32c(0, std::span(out.header).first(header_bytes)));
    out.header_size += digest_bytes;
  }
  const auto data = out.pdu.data();
  if (!data.empty()) {
    const std::size_t padding = padded(data.size()) - data.size();
    out.trailer_size = padding;
    if (data_digest_) {
      const std::uint32_t crc = crc32c(crc32c(0, data), std::span(out.trailer).first(padding));
      store_digest(&out.trailer[padding], crc);
      out.trailer_size += digest_bytes;
    }
  }
  if (!processing_) flush();
}

void Connection::flush() {
  if (sending_ || ending_ || queue_.empty()) return;
  unsigned count = 0;
  std::size_t skip = sent_;
  const auto add = [&](const std::byte* data, std::size_t size) {
    const std::size_t skipped = std::min(skip, size);
    skip -= skipped;
    if (size > skipped)
      send_buffers_[count++] = {const_cast<std::byte*>(data) + skipped, size - skipped};
  };
  for (const Outgoing& out : queue_) {
    if (count + 3 > send_buffers_.size()) break;
    const auto data = out.pdu.data();
    add(out.header.data(), out.header_size);
    add(data.data(), data.size());
    add(out.trailer.data(), out.trailer_size);
  }
  send_message_ = {};
  send_message_.msg_iov = send_buffers_.data();
  send_message_.msg_iovlen = count;
  sending_ = true;
  io_uring_prep_sendmsg(loop_.prepare(sending_slot_), socket_.get(), &send_message_, MSG_NOSIGNAL);
}

void Connection::sent(int result) {
  sending_ = false;
  if (ending_) return settle_end();
  if (result == -EINTR || result == -EAGAIN) return flush();
  if (result < 0) return end();
  sent_ += static_cast<std::size_t>(result);
  while (!queue_.empty() && sent_ >= queue_.front().size()) {
    sent_ -= queue_.front().size();
    queue_.pop_front();
  }
  if (queue_.empty() && close_when_sent_) return end();
  flush();
}

}  // namespace tidepool::scsi::iscsi
