#include "blockdev/stores/nbd_replay.h"

#include <array>
#include <cerrno>

namespace tidepool::blockdev {

namespace {

using Entry = UnflushedLog::Entry;

constexpr std::chrono::seconds patience{60};  // for one answer
constexpr std::size_t window_size = 16;       // commands in flight

class Replay {
 public:
  Replay(NbdLink& link, const std::string& uri, int stop) : link_(link), uri_(uri), stop_(stop) {}

  Result<> send(const Entry& entry) {
    auto room = make_room(&entry);
    if (!room) return std::unexpected(room.error());
    Sent& sent = **room;
    sent = {.entry = &entry, .error = 0, .answered = false};
    const NbdCommand command{.op = entry.op,
                             .force_unit_access = false,
                             .offset = entry.offset,
                             .length = entry.length,
                             .data = const_cast<std::byte*>(entry.data.data())};
    if (const int error = link_.send(command, {answered, &sent, nullptr}); error != 0) {
      sent.error = error;
      sent.answered = true;
    }
    return {};
  }
  Result<> wait_for_all() {
    auto room = make_room(nullptr);
    if (!room) return std::unexpected(room.error());
    return {};
  }

 private:
  struct Sent {
    const Entry* entry = nullptr;
    int error = 0;
    bool answered = true;
  };

  static int answered(void* slot, int* error) {
    auto& sent = *static_cast<Sent*>(slot);
    sent.error = *error;
    sent.answered = true;
    return 1;
  }

  std::unexpected<Error> ended() const {
    return fail(ErrorKind::busy, "'{}': the connection ended while changes were sent again", uri_);
  }

  // A free place, once nothing is in flight that `next` must not overtake; null: nothing
  // at all.
  Result<Sent*> make_room(const Entry* next) {
    for (;;) {
      Sent* room = nullptr;
      bool conflict = false;
      for (Sent& sent : window_) {
        if (!sent.answered) {
          conflict = conflict || next == nullptr || sent.entry->overlaps(*next);
          continue;
        }
        room = &sent;
        if (sent.error == 0) continue;
        if (link_.is_dead() || is_farewell(sent.error)) return ended();
        return fail_errno(sent.error, fmt::format("'{}' does not take unflushed changes again, at "
                                                  "{}+{}",
                                                  uri_, sent.entry->offset, sent.entry->length));
      }
      if (room != nullptr && !conflict) return room;
      if (link_.is_dead()) return ended();
      const auto deadline = std::chrono::steady_clock::now() + patience;
      if (!link_.step(stop_, deadline)) return ended();
    }
  }

  NbdLink& link_;
  const std::string& uri_;
  const int stop_;
  std::array<Sent, window_size> window_;
};

}  // namespace

Result<> send_again(const UnflushedLog& log, NbdLink& link, const std::string& uri, int stop) {
  Replay replay(link, uri, stop);
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
