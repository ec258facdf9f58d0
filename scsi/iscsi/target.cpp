#include "scsi/iscsi/target.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/log.h"
#include "scsi/iscsi/socket_names.h"

namespace tidepool::scsi::iscsi {

namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds login_patience{15};
constexpr int listen_backlog = 64;
// A peer that is gone without a word is noticed after about a minute.
constexpr int keepalive_idle = 30, keepalive_interval = 10, keepalive_count = 3;  // seconds
constexpr int unacknowledged_limit = 60 * 1000;                                   // milliseconds

void set_option(int socket, int level, int option, int value) {
  ::setsockopt(socket, level, option, &value, sizeof value);
}

}  // namespace

Result<PortalAddress> parse_portal(const std::string& text) {
  PortalAddress portal;
  std::string port;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string::npos)
      return fail(ErrorKind::invalid_argument, "portal '{}': no ']' after the address", text);
    portal.host = text.substr(1, end - 1);
    if (end + 1 < text.size() && text[end + 1] != ':')
      return fail(ErrorKind::invalid_argument, "portal '{}': expected [ADDRESS]:PORT", text);
    if (end + 1 < text.size()) port = text.substr(end + 2);
  } else {
    const std::size_t colon = text.rfind(':');
    portal.host = text.substr(0, colon);
    if (colon != std::string::npos) port = text.substr(colon + 1);
  }
  const bool has_port = text.ends_with(':') || !port.empty();
  const auto number = has_port ? parse_number(port) : std::optional<std::uint64_t>(portal.port);
  if (portal.host.empty() || !number || *number > 65535)
    return fail(ErrorKind::invalid_argument,
                "portal '{}': expected ADDRESS[:PORT], such as 127.0.0.1:3260 or [::1]:3260", text);
  portal.port = static_cast<std::uint16_t>(*number);
  return portal;
}

Target::Target(EventLoop& loop, Device& device, LoginPolicy policy)
    : loop_(loop), device_(device), policy_(std::move(policy)) {
  timer_.target = this;
  timer_.on_complete = [](Operation& self, int, unsigned) {
    static_cast<Timer&>(self).target->timer_fired();
  };
}

Target::~Target() = default;

Result<> Target::listen(const PortalAddress& portal) {
  if (listeners_.size() == most_portals)
    return fail(ErrorKind::invalid_argument, "more than {} portals", most_portals);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
  const std::string port = std::to_string(portal.port);
  if (const int error = ::getaddrinfo(portal.host.c_str(), port.c_str(), &hints, &found);
      error != 0)
    return fail(ErrorKind::invalid_argument, "portal address '{}': {}; give a numeric address",
                portal.host, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(found, ::freeaddrinfo);
  auto listener = std::make_unique<Listener>();
  listener->target = this;
  listener->socket.reset(::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, list->ai_protocol));
  if (!listener->socket) return fail_errno(errno, "cannot create a socket");
  const int fd = listener->socket.get();
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (list->ai_family == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (::bind(fd, list->ai_addr, list->ai_addrlen) != 0 || ::listen(fd, listen_backlog) != 0)
    return fail_errno(errno, fmt::format("cannot listen on '{}' port {}", portal.host, port));
  listener->on_complete = [](Operation& self, int result, unsigned) {
    auto& owner = static_cast<Listener&>(self);
    owner.target->accepted(owner, result);
  };
  listeners_.push_back(std::move(listener));
  return {};
}

void Target::start() {
  for (auto& listener : listeners_) accept(*listener);
}

void Target::accept(Listener& listener) {
  if (stopping_) return;
  listener.accepting = true;
  io_uring_prep_accept(loop_.prepare(listener), listener.socket.get(), nullptr, nullptr,
                       SOCK_CLOEXEC);
}

void Target::accepted(Listener& listener, int result) {
  listener.accepting = false;
  if (result >= 0) {
    UniqueFd socket(result);
    if (stopping_) return;
    if (connections_.size() >= most_connections) {
      log().warn("iSCSI: {} refused: {} connections are open", peer_name(socket.get()),
                 connections_.size());
    } else {
      const int fd = socket.get();
      set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
      set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, keepalive_idle);
      set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, keepalive_interval);
      set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, keepalive_count);
      set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, unacknowledged_limit);
      connections_.push_back(
          std::make_unique<Connection>(loop_, *this, std::move(socket), peer_name(fd)));
      connections_.back()->start();
      arm_timer();
    }
  } else if (!stopping_ && result != -EINTR && result != -EAGAIN && result != -ECONNABORTED) {
    log().warn("iSCSI: cannot accept a connection: errno {}", -result);
  }
  accept(listener);
}

void Target::arm_timer() {
  if (timer_.armed || stopping_) return;
  timer_.armed = true;
  io_uring_prep_timeout(loop_.prepare(timer_), &interval_, 0, 0);
}

void Target::timer_fired() {
  timer_.armed = false;
  bool any = false;
  const auto now = steady_clock::now();
  for (auto& connection : connections_) {
    if (!connection->logging_in()) continue;
    if (now - connection->began() > login_patience) {
      log().info("iSCSI: {}: did not log in in time", connection->peer());
      connection->end();
    } else {
      any = true;
    }
  }
  if (any) arm_timer();
}

std::uint16_t Target::new_session_handle() {
  if (++last_handle_ == 0) ++last_handle_;
  return last_handle_;
}

void Target::logged_in(Connection& fresh, const SessionIdentity& identity) {
  log().info("iSCSI: {}: '{}' logged in{}", fresh.peer(), identity.initiator,
             identity.discovery ? " for discovery" : "");
  if (identity.discovery) return;
  for (auto& connection : connections_) {
    const Session* const session = connection->session();
    if (connection.get() == &fresh || session == nullptr || session->identity() != identity)
      continue;
    log().info("iSCSI: {}: replaced by {}", connection->peer(), fresh.peer());
    connection->end_session();
  }
}

void Target::close_all_sessions() {
  for (auto& connection : connections_)
    if (connection->session() != nullptr) connection->close_when_sent();
}

void Target::ended(Connection& connection) {
  // Whoever called is still in its code.
  loop_.post([this, &connection] {
    std::erase_if(connections_, [&](const auto& entry) { return entry.get() == &connection; });
  });
}

KeyValues Target::addresses(const std::string& local) {
  KeyValues out{{"TargetName", policy_.target_name}};
  for (std::string portal : portals()) {
    // One that listens on every address is told as the one that the initiator knows.
    if (portal.starts_with("0.0.0.0:") || portal.starts_with("[::]:")) portal = local;
    out.emplace_back("TargetAddress", fmt::format("{},{}", portal, policy_.portal_group));
  }
  return out;
}

std::vector<std::string> Target::portals() const {
  std::vector<std::string> out;
  for (const auto& listener : listeners_) out.push_back(local_name(listener->socket.get()));
  return out;
}

void Target::stop() {
  if (stopping_) return;
  stopping_ = true;
  for (auto& listener : listeners_) ::shutdown(listener->socket.get(), SHUT_RDWR);
  for (auto& connection : connections_) connection->end_session();
  if (!timer_.armed) return;
  removal_.armed = true;
  removal_.target = this;
  removal_.on_complete = [](Operation& self, int, unsigned) {
    static_cast<Timer&>(self).armed = false;
  };
  Operation& pending = timer_;
  io_uring_prep_timeout_remove(loop_.prepare(removal_), reinterpret_cast<std::uint64_t>(&pending),
                               0);
}

bool Target::idle() const {
  const auto accepting = [](const auto& listener) { return listener->accepting; };
  return connections_.empty() && !timer_.armed && !removal_.armed &&
         std::ranges::none_of(listeners_, accepting);
}

}  // namespace tidepool::scsi::iscsi
