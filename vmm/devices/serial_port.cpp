#include "vmm/devices/serial_port.h"

#include <linux/serial_reg.h>

namespace tidepool::vmm {

namespace {
constexpr std::uint8_t fifo_works = 0xc0;  // in the identification: a 16550A
}

SerialPort::SerialPort(std::function<void(char)> output, std::function<void()> interrupt,
                       const SerialState& state)
    : output_(std::move(output)),
      interrupt_(std::move(interrupt)),
      interrupt_enable_(state.interrupt_enable),
      line_control_(state.line_control),
      modem_control_(state.modem_control),
      scratch_(state.scratch),
      divisor_(state.divisor),
      fifo_(state.fifo),
      empty_pending_(state.empty_pending),
      received_(state.received.begin(), state.received.end()) {}

SerialState SerialPort::save() const {
  const std::lock_guard lock(mutex_);
  return {.interrupt_enable = interrupt_enable_,
          .line_control = line_control_,
          .modem_control = modem_control_,
          .scratch = scratch_,
          .divisor = divisor_,
          .fifo = fifo_,
          .empty_pending = empty_pending_,
          .received = {received_.begin(), received_.end()}};
}

void SerialPort::raise_pending() {
  const std::lock_guard lock(mutex_);
  update_interrupt(true);
}

void SerialPort::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte{read_register(offset + i)};
}

void SerialPort::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < in.size(); ++i) {
    write_register(offset + i, static_cast<std::uint8_t>(in[i]));
  }
}

void SerialPort::type(std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  for (const char c : bytes) {
    if (received_.size() < most_typed) received_.push_back(static_cast<std::uint8_t>(c));
  }
  update_interrupt(true);
}

std::uint8_t SerialPort::identify() const {
  std::uint8_t id = UART_IIR_NO_INT;
  if ((interrupt_enable_ & UART_IER_RDI) != 0 && !received_.empty()) {
    id = UART_IIR_RDI;
  } else if ((interrupt_enable_ & UART_IER_THRI) != 0 && empty_pending_) {
    id = UART_IIR_THRI;
  }
  return fifo_ ? static_cast<std::uint8_t>(id | fifo_works) : id;
}

// The line is edge-triggered, and a driver reads until nothing is pending: so only
// what is new raises it.
void SerialPort::update_interrupt(bool news) {
  if (news && (identify() & UART_IIR_NO_INT) == 0) interrupt_();
}

std::uint8_t SerialPort::modem_status() const {
  if ((modem_control_ & UART_MCR_LOOP) == 0) return UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;
  std::uint8_t status = 0;
  if ((modem_control_ & UART_MCR_DTR) != 0) status |= UART_MSR_DSR;
  if ((modem_control_ & UART_MCR_RTS) != 0) status |= UART_MSR_CTS;
  if ((modem_control_ & UART_MCR_OUT1) != 0) status |= UART_MSR_RI;
  if ((modem_control_ & UART_MCR_OUT2) != 0) status |= UART_MSR_DCD;
  return status;
}

std::uint8_t SerialPort::read_register(std::uint64_t offset) {
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_RX: {
      if (divisor) return static_cast<std::uint8_t>(divisor_);
      if (received_.empty()) return 0;
      const std::uint8_t byte = received_.front();
      received_.pop_front();
      return byte;
    }
    case UART_IER:
      return divisor ? static_cast<std::uint8_t>(divisor_ >> 8) : interrupt_enable_;
    case UART_IIR: {
      const std::uint8_t id = identify();
      if ((id & UART_IIR_ID) == UART_IIR_THRI) empty_pending_ = false;
      return id;
    }
    case UART_LCR:
      return line_control_;
    case UART_MCR:
      return modem_control_;
    case UART_LSR:
      return static_cast<std::uint8_t>(UART_LSR_TEMT | UART_LSR_THRE |
                                       (received_.empty() ? 0 : UART_LSR_DR));
    case UART_MSR:
      return modem_status();
    default:
      return scratch_;
  }
}

void SerialPort::write_register(std::uint64_t offset, std::uint8_t value) {
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (offset) {
    case UART_TX:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff00) | value);
      } else if ((modem_control_ & UART_MCR_LOOP) != 0) {
        if (received_.size() < most_typed) received_.push_back(value);
        update_interrupt(true);
      } else {
        output_(static_cast<char>(value));
        empty_pending_ = true;
        update_interrupt(true);
      }
      break;
    case UART_IER:
      if (divisor) {
        divisor_ = static_cast<std::uint16_t>((divisor_ & 0xff) | value << 8);
        break;
      }
      // Who begins to wait for an empty transmitter is told that it is.
      if ((value & UART_IER_THRI) != 0) empty_pending_ = true;
      interrupt_enable_ = value & 0xf;
      update_interrupt(true);
      break;
    case UART_FCR:
      fifo_ = (value & UART_FCR_ENABLE_FIFO) != 0;
      if ((value & UART_FCR_CLEAR_RCVR) != 0) received_.clear();
      break;
    case UART_LCR:
      line_control_ = value;
      break;
    case UART_MCR:
      modem_control_ = value & 0x1f;
      break;
    case UART_SCR:
      scratch_ = value;
      break;
    default:  // the status registers cannot be written
      break;
  }
}

}  // namespace tidepool::vmm
