// One connection to a vhost-user back end, from the front end's side: requests and
// their answers.
//
// The back end is not trusted with us: answers are checked, and one that is not there whole
// after some time is not waited for any more. With the guest's memory, which it is given, it
// can do what it likes.
//
// One thread at a time. After an error the connection is of no use any more.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/vhost_user/message.h"

namespace tidepool::virtio::vhost_user {

inline constexpr std::chrono::milliseconds usual_patience{30'000};

class FrontEnd {
 public:
  // Connected, with the protocol's features agreed upon: those of `wanted` that the back
  // end has. patience: with each answer.
  static Result<std::unique_ptr<FrontEnd>> connect(const std::string& socket, std::uint64_t wanted,
                                                   std::chrono::milliseconds patience);

  int descriptor() const { return connection_.get(); }
  std::uint64_t features() const { return features_; }  // what the device offers
  bool has(std::uint64_t protocol_feature) const {
    return (protocol_features_ & protocol_feature) != 0;
  }

  // What answers with a number, or with as many bytes as were sent.
  Result<std::uint64_t> get(Request request);
  Result<std::vector<std::byte>> ask(Request request, std::span<const std::byte> payload,
                                     std::vector<UniqueFd>* descriptors = nullptr);
  // What changes something: when it returns it is done, if the back end can say so.
  Result<> set(Request request, std::span<const std::byte> payload,
               std::span<const int> descriptors = {});
  Result<> set(Request request, std::uint64_t value, std::span<const int> descriptors = {});
  Result<> set_vring(Request request, std::uint32_t index, std::uint32_t value);

 private:
  FrontEnd(std::string socket, UniqueFd connection, std::chrono::milliseconds patience)
      : socket_(std::move(socket)), connection_(std::move(connection)), patience_(patience) {}
  Result<> send(Request request, std::span<const std::byte> payload,
                std::span<const int> descriptors, bool wants_answer);
  Result<std::vector<std::byte>> receive(Request request, std::vector<UniqueFd>* descriptors);
  std::unexpected<Error> lost(int error) const;

  const std::string socket_;
  const UniqueFd connection_;
  const std::chrono::milliseconds patience_;
  std::uint64_t features_ = 0, protocol_features_ = 0;
};

}  // namespace tidepool::virtio::vhost_user
