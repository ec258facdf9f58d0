#include "vmm/state/machine_state.h"

#include <algorithm>
#include <cstring>

#include "base/byte_order.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint64_t most_run = 1ULL << 20;  // bytes of memory in a record
constexpr std::size_t address_bytes = 8;

bool is_zero(const std::byte* page) {
  return page[0] == std::byte{} && std::memcmp(page, page + 1, virtio::guest_page - 1) == 0;
}

}  // namespace

Result<> write_state(StateWriter& writer, const MachineSetup& setup, const MachineState& state) {
  auto written = writer.put(RecordKind::setup, 0, encode(setup));
  if (written) written = writer.put(RecordKind::board, 0, encode(state.board));
  for (std::uint32_t i = 0; written && i < state.vcpus.size(); ++i)
    written = writer.put(RecordKind::vcpu, i, encode(state.vcpus[i]));
  for (std::uint32_t i = 0; written && i < state.functions.size(); ++i)
    written = writer.put(RecordKind::function, i, encode(state.functions[i]));
  return written;
}

Result<> write_memory(StateWriter& writer, const virtio::GuestRegion& region) {
  const std::byte* const host = region.host;
  std::uint64_t at = 0;
  while (at < region.length) {
    if (is_zero(host + at)) {
      at += virtio::guest_page;
      continue;
    }
    std::uint64_t end = at;
    const std::uint64_t most = std::min(region.length, at + most_run);
    do {
      end += virtio::guest_page;
    } while (end < most && !is_zero(host + end));
    std::array<std::byte, address_bytes> address;
    store_le64(address.data(), region.guest + at);
    auto written = writer.put(RecordKind::memory, 0, address, {host + at, end - at});
    if (!written) return written;
    at = end;
  }
  return {};
}

Result<MachineSetup> read_setup(StateReader& reader) {
  auto record = reader.next();
  if (!record) return std::unexpected(record.error());
  if (record->kind != RecordKind::setup) return reader.senseless("it does not begin with a setup");
  auto setup = decode_setup(record->content);
  if (!setup) return reader.senseless("its setup");
  return std::move(*setup);
}

Result<MachineState> read_state(StateReader& reader) {
  MachineState state;
  bool has_board = false;
  for (;;) {
    auto record = reader.next();
    if (!record) return std::unexpected(record.error());
    switch (record->kind) {
      case RecordKind::board: {
        auto board = decode_board(record->content);
        if (!board || has_board) return reader.senseless("its board");
        has_board = true;
        state.board = std::move(*board);
        break;
      }
      case RecordKind::vcpu: {
        auto vcpu = decode_vcpu(record->content);
        if (!vcpu || record->instance != state.vcpus.size()) return reader.senseless("a vCPU");
        state.vcpus.push_back(std::move(*vcpu));
        break;
      }
      case RecordKind::function: {
        auto function = decode_function(record->content);
        if (!function || record->instance != state.functions.size())
          return reader.senseless("a device");
        state.functions.push_back(std::move(*function));
        break;
      }
      case RecordKind::memory:
      case RecordKind::end:
        reader.put_back();
        if (!has_board) return reader.senseless("it has no board");
        return state;
      default:
        return reader.senseless("a second setup");
    }
  }
}

Result<> read_memory(StateReader& reader, const virtio::GuestMemory& memory) {
  for (;;) {
    auto record = reader.next();
    if (!record) return std::unexpected(record.error());
    if (record->kind == RecordKind::end) return {};
    if (record->kind != RecordKind::memory || record->content.size() < address_bytes)
      return reader.senseless("its memory");
    const auto pages = record->content.subspan(address_bytes);
    if (pages.size() % virtio::guest_page != 0) return reader.senseless("half a page of memory");
    std::byte* const place = memory.at(load_le64(record->content.data()), pages.size());
    if (place == nullptr) return reader.senseless("it has more memory than the machine");
    std::memcpy(place, pages.data(), pages.size());
  }
}

}  // namespace tidepool::vmm
