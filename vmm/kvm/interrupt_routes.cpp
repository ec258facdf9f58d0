#include "vmm/kvm/interrupt_routes.h"

#include <vector>

namespace tidepool::vmm {

std::uint32_t InterruptRoutes::take_number() {
  const std::lock_guard lock(mutex_);
  return next_++;
}

Result<> InterruptRoutes::set_message(std::uint32_t number, std::uint64_t address,
                                      std::uint32_t data) {
  const std::lock_guard lock(mutex_);
  kvm_irq_routing_entry& message = messages_[number];
  message.gsi = number;
  message.type = KVM_IRQ_ROUTING_MSI;
  message.u.msi.address_lo = static_cast<std::uint32_t>(address);
  message.u.msi.address_hi = static_cast<std::uint32_t>(address >> 32);
  message.u.msi.data = data;
  return update();
}

Result<> InterruptRoutes::install() {
  const std::lock_guard lock(mutex_);
  return update();
}

Result<> InterruptRoutes::update() {
  std::vector<kvm_irq_routing_entry> all;
  constexpr std::uint32_t pic_pins = 8;
  for (std::uint32_t pin = 0; pin < pins; ++pin) {
    kvm_irq_routing_entry entry{};
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    // Interrupt 0, the timer, comes by pin 2; as the tables tell the guest.
    entry.gsi = pin;
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = pin == 0 ? 2 : pin;
    if (pin != 2) all.push_back(entry);
    if (pin >= 2 * pic_pins) continue;
    entry.u.irqchip.irqchip = pin < pic_pins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
    entry.u.irqchip.pin = pin % pic_pins;
    if (pin != 2) all.push_back(entry);
  }
  for (const auto& [_, entry] : messages_) all.push_back(entry);
  return vm_.set_routes(all);
}

}  // namespace tidepool::vmm
