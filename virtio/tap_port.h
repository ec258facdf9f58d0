// A tap interface of the host as a network device's other end.
//
// The interface exists already, or is made for as long as the port lives; bringing it up
// and giving it an address or a bridge is the administrator's.
#pragma once

#include <memory>

#include "base/unique_fd.h"
#include "virtio/packet_port.h"

namespace tidepool::virtio {

class TapPort final : public PacketPort {
 public:
  // busy: another program has it open.
  static Result<std::unique_ptr<TapPort>> open(const std::string& interface);

  const std::string& name() const override { return name_; }
  int descriptor() const override { return descriptor_.get(); }
  Result<> set_offloads(const PacketOffloads& offloads) override;

 private:
  TapPort(std::string name, UniqueFd descriptor)
      : name_(std::move(name)), descriptor_(std::move(descriptor)) {}
  const std::string name_;
  const UniqueFd descriptor_;
};

}  // namespace tidepool::virtio
