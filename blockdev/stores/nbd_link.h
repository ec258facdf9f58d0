// One connection to an NBD server: libnbd's handle, connected and checked.
//
// The only code that calls libnbd, with blockdev/attach.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "blockdev/stores/nbd_library.h"
#include "blockdev/stores/remote_link.h"

namespace tidepool::blockdev {

class NbdLink final : public RemoteLink {
 public:
  static Result<std::unique_ptr<RemoteLink>> connect(const std::string& uri, int stop);
  ~NbdLink() override;

  std::uint64_t server() const override { return 0; }
  bool is_dead() override;
  void close() override { handle_.reset(); }  // what is in flight is forgotten
  std::string failure() override;
  int send(const RemoteCommand& command, RemoteAnswer& answer) override;
  std::uint64_t most_of(IoOp op) const override;
  int descriptor() override;
  short awaited() override;
  bool go_on(short events) override;

 private:
  NbdLink(const std::string& uri, const NbdLibrary& nbd)
      : RemoteLink(uri), nbd_(nbd), handle_(nbd.create(), nbd.close) {}
  nbd_handle* handle() { return handle_.get(); }
  std::string last_failure() const;
  std::unexpected<Error> link_failure(const char* what) const;
  Result<> shake_hands(int stop);
  Result<> learn();

  const NbdLibrary& nbd_;
  std::unique_ptr<nbd_handle, decltype(&::nbd_close)> handle_;
};

// Another NBD server each time that one is wanted.
class NbdEndpoint final : public RemoteEndpoint {
 public:
  explicit NbdEndpoint(std::string uri) : uri_(std::move(uri)) {}
  const std::string& uri() const override { return uri_; }
  Result<std::unique_ptr<RemoteLink>> connect(int stop) override {
    return NbdLink::connect(uri_, stop);
  }

 private:
  const std::string uri_;
};

}  // namespace tidepool::blockdev
