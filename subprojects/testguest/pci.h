// PCI and the modern virtio transport, from the driver's side; written from the
// standards, apart from the monitor's code.
#pragma once

#include <stdint.h>

struct VirtioPciDevice {
  uint32_t slot = 0;  // on the bus
  uint32_t bar = 0;   // where the structures below are
  uint32_t common = 0, device = 0, notify = 0, notify_multiplier = 0;
};

// The nth device with this virtio number; false: there is none.
bool find_virtio(uint32_t virtio_id, uint32_t nth, VirtioPciDevice& found);
void write_config(uint32_t slot, uint32_t offset, uint8_t value);
// The device's MSI-X vector 0 is a write of `data` to the address from now on.
void enable_message(const VirtioPciDevice& device, uint32_t address, uint32_t data);
