#include "blockdev/stores/remote_replay.h"

#include <poll.h>

#include <array>
#include <cerrno>

namespace tidepool::blockdev {

namespace {

using Entry = UnflushedLog::Entry;

constexpr std::chrono::seconds patience{60};  // for one answer
constexpr int pause_ms = 100;                 // before asking again
constexpr std::size_t window_size = 16;       // commands in flight

class Replay {
 public:
  Replay(RemoteLink& link, const std::string& uri, int stop,
         const std::function<WritePermit()>& permit)
      : link_(link), uri_(uri), stop_(stop), permit_(permit) {}

  Result<> send(const Entry& entry) {
    auto room = make_room(&entry);
    if (!room) return std::unexpected(room.error());
    (*room)->entry = &entry;
    (*room)->done = 0;
    send_rest(**room);
    return {};
  }
  Result<> wait_for_all() {
    auto room = make_room(nullptr);
    if (!room) return std::unexpected(room.error());
    return {};
  }

 private:
  struct Sent : RemoteAnswer {
    const Entry* entry = nullptr;  // null: free
    std::uint64_t done = 0;        // bytes
    bool waits = false;            // for its answer
  };

  void send_rest(Sent& sent) {
    static_cast<RemoteAnswer&>(sent) = {
        .answered = [](RemoteAnswer& self) { static_cast<Sent&>(self).waits = false; }};
    const Entry& entry = *sent.entry;
    RemoteCommand command{.op = entry.op,
                          .force_unit_access = false,
                          .offset = entry.offset + sent.done,
                          .length = entry.length - sent.done};
    if (!entry.data.empty()) command.data = const_cast<std::byte*>(entry.data.data()) + sent.done;
    sent.waits = true;
    if (permit_() != WritePermit::yes) {
      sent.gone = true;
      sent.waits = false;
      return;
    }
    if (const int error = link_.send(command, sent); error != 0) {
      sent.error = error;
      sent.waits = false;
    }
  }

  std::unexpected<Error> ended() const {
    return fail(ErrorKind::busy, "'{}': the connection ended while changes were sent again", uri_);
  }

  // Sees to an answer: the place is free, or used for the rest.
  Result<> settle(Sent& sent) {
    if (sent.gone || link_.is_dead()) return ended();
    if (sent.later) {
      pollfd stop{.fd = stop_, .events = POLLIN, .revents = 0};
      if (::poll(&stop, 1, pause_ms) > 0) return ended();
      send_rest(sent);
      return {};
    }
    if (sent.error != 0 || sent.length == 0) {
      return fail_errno(sent.error != 0 ? sent.error : EIO,
                        fmt::format("'{}' does not take unflushed changes again, at {}+{}", uri_,
                                    sent.entry->offset, sent.entry->length));
    }
    // A refusal does not say whose it is.
    if (sent.server != link_.server()) return ended();
    sent.done += sent.length;
    if (sent.done < sent.entry->length) {
      send_rest(sent);
    } else {
      sent.entry = nullptr;
    }
    return {};
  }

  // A free place, once nothing is in flight that `next` must not overtake; null: nothing
  // at all.
  Result<Sent*> make_room(const Entry* next) {
    for (;;) {
      Sent* room = nullptr;
      bool conflict = false;
      for (Sent& sent : window_) {
        if (sent.entry != nullptr && !sent.waits) {
          if (auto r = settle(sent); !r) return std::unexpected(r.error());
        }
        if (sent.entry == nullptr) {
          room = &sent;
        } else {
          conflict = conflict || next == nullptr || sent.entry->overlaps(*next);
        }
      }
      if (room != nullptr && !conflict) return room;
      if (link_.is_dead()) return ended();
      const auto deadline = std::chrono::steady_clock::now() + patience;
      if (!link_.step(stop_, deadline)) return ended();
    }
  }

  RemoteLink& link_;
  const std::string& uri_;
  const int stop_;
  const std::function<WritePermit()>& permit_;
  std::array<Sent, window_size> window_;
};

}  // namespace

Result<> send_again(const UnflushedLog& log, RemoteLink& link, const std::string& uri, int stop,
                    const std::function<WritePermit()>& permit) {
  Replay replay(link, uri, stop, permit);
  Result<> result;
  for (const auto& entry : log.entries()) {
    result = replay.send(entry);
    if (!result) break;
  }
  if (result) result = replay.wait_for_all();
  if (!result) link.close();  // while `replay` is there to be told
  return result;
}

}  // namespace tidepool::blockdev
