#include "virtio/vhost_user/front_end.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>

#include "base/byte_order.h"
#include "base/unix_address.h"
#include "virtio/vhost_user/socket_io.h"

namespace tidepool::virtio::vhost_user {

Result<std::unique_ptr<FrontEnd>> FrontEnd::connect(const std::string& socket, std::uint64_t wanted,
                                                    std::chrono::milliseconds patience) {
  const auto address = unix_address(socket);
  if (!address) return std::unexpected(address.error());
  UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // Connecting waits as sending does.
  const timeval limit{.tv_sec = patience.count() / 1000, .tv_usec = patience.count() % 1000 * 1000};
  ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (!connection || ::connect(connection.get(), reinterpret_cast<const sockaddr*>(&*address),
                               sizeof *address) != 0) {
    return fail_errno(errno, fmt::format("vhost-user socket '{}': no back end answers", socket));
  }
  std::unique_ptr<FrontEnd> front(new FrontEnd(socket, std::move(connection), patience));
  auto features = front->get(Request::get_features);
  if (!features) return std::unexpected(features.error());
  if ((*features & feature_protocol) == 0 || (*features >> 32 & 1) == 0) {
    return fail(ErrorKind::unsupported,
                "vhost-user socket '{}': the back end lacks protocol features or virtio 1", socket);
  }
  front->features_ = *features & ~feature_protocol;
  auto offered = front->get(Request::get_protocol_features);
  if (!offered) return std::unexpected(offered.error());
  front->protocol_features_ = *offered & wanted;
  auto agreed = front->set(Request::set_protocol_features, front->protocol_features_);
  if (agreed) agreed = front->set(Request::set_owner, std::span<const std::byte>{});
  if (!agreed) return std::unexpected(agreed.error());
  return front;
}

std::unexpected<Error> FrontEnd::lost(int error) const {
  if (error == EAGAIN || error == ETIMEDOUT) {
    return fail(ErrorKind::io, "vhost-user socket '{}': the back end did not answer for {} s",
                socket_, std::chrono::duration<double>(patience_).count());
  }
  if (error != 0) return fail_errno(error, fmt::format("vhost-user socket '{}'", socket_));
  return fail(ErrorKind::io, "vhost-user socket '{}': the back end has gone", socket_);
}

Result<> FrontEnd::send(Request request, std::span<const std::byte> payload,
                        std::span<const int> descriptors, bool wants_answer) {
  const int error =
      send_whole(connection_.get(), encode_request(request, payload, wants_answer), descriptors);
  if (error != 0) return lost(error == EPIPE || error == ECONNRESET ? 0 : error);
  return {};
}

Result<std::vector<std::byte>> FrontEnd::receive(Request request,
                                                 std::vector<UniqueFd>* descriptors) {
  const auto until = std::chrono::steady_clock::now() + patience_;
  std::array<std::byte, header_bytes> header;
  ReceivedBytes got = receive_whole(connection_.get(), header, until);
  if (got.count < header.size()) return lost(got.error == ECONNRESET ? 0 : got.error);
  const auto parsed = parse_answer_header(header);
  if (!parsed || parsed->request != request) {
    return fail(ErrorKind::io, "vhost-user socket '{}': not the answer to message {}", socket_,
                static_cast<std::uint32_t>(request));
  }
  if (descriptors != nullptr) *descriptors = std::move(got.descriptors);
  std::vector<std::byte> payload(parsed->payload_bytes);
  got = receive_whole(connection_.get(), payload, until);
  if (got.count < payload.size()) return lost(got.error);
  return payload;
}

Result<std::vector<std::byte>> FrontEnd::ask(Request request, std::span<const std::byte> payload,
                                             std::vector<UniqueFd>* descriptors) {
  if (auto sent = send(request, payload, {}, false); !sent) return std::unexpected(sent.error());
  return receive(request, descriptors);
}

Result<std::uint64_t> FrontEnd::get(Request request) {
  auto payload = ask(request, {});
  if (!payload) return std::unexpected(payload.error());
  const auto value = parse_number(*payload);
  if (!value) {
    return fail(ErrorKind::io, "vhost-user socket '{}': message {} is not answered by a number",
                socket_, static_cast<std::uint32_t>(request));
  }
  return *value;
}

Result<> FrontEnd::set(Request request, std::span<const std::byte> payload,
                       std::span<const int> descriptors) {
  const bool answered = has(protocol_answers) && request != Request::set_protocol_features;
  if (auto sent = send(request, payload, descriptors, answered); !sent) return sent;
  if (!answered) return {};
  auto answer = receive(request, nullptr);
  if (!answer) return std::unexpected(answer.error());
  const auto refused = parse_number(*answer);
  if (refused && *refused == 0) return {};
  return fail(ErrorKind::io, "vhost-user socket '{}': the back end refuses message {}", socket_,
              static_cast<std::uint32_t>(request));
}

Result<> FrontEnd::set(Request request, std::uint64_t value, std::span<const int> descriptors) {
  std::array<std::byte, sizeof value> payload;
  store_le64(payload.data(), value);
  return set(request, payload, descriptors);
}

Result<> FrontEnd::set_vring(Request request, std::uint32_t index, std::uint32_t value) {
  std::array<std::byte, 8> payload;
  store_le32(payload.data(), index);
  store_le32(payload.data() + 4, value);
  return set(request, payload);
}

}  // namespace tidepool::virtio::vhost_user
