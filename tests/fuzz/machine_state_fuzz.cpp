// A saved machine's file and each of its records: as they come, and with the hashes made
// right.
#include <algorithm>
#include <cstring>

#include "base/byte_order.h"
#include "tests/fuzz/target.h"
#include "vmm/state/machine_state.h"

namespace tidepool::test {

using namespace vmm;

namespace {

VcpuState sample_vcpu() {
  VcpuState state;
  state.extended.resize(VcpuState::least_extended);
  state.cpuid.resize(3);
  state.cpuid[1].function = 7;
  state.msrs = {{0x10, 5}, {0xc0000080, 0x500}};
  return state;
}

BoardState sample_board() {
  BoardState state;
  for (unsigned i = 0; i < BoardState::chip_count; ++i) state.chips[i].chip_id = i;
  state.serial.received = {'a', 'b'};
  return state;
}

FunctionState sample_function() {
  FunctionState state;
  state.queues = {{256, 0, true, 0x1000, 0x2000, 0x3000, 7, 7}};
  state.vectors = {{0xfee00000, 0x41, false, false}, {}};
  state.inner = {std::byte{'x'}};
  return state;
}

const MachineSetup sample_setup{.name = "name",
                                .kernel = "/vmlinuz",
                                .initrd = {},
                                .command_line = "quiet",
                                .cpus = 2,
                                .memory = 1 << 20,
                                .console = "serial",
                                .disks = {"/disk,raw"},
                                .nets = {"tap=tap0,mac=52:54:00:12:34:56"}};

void append(Input& file, RecordKind kind, std::span<const std::byte> content) {
  RecordHeader header{.kind = kind, .length = content.size()};
  header.hash = hash_of(header, content, {});
  const auto framed = encode(header);
  file.insert(file.end(), framed.begin(), framed.end());
  file.insert(file.end(), content.begin(), content.end());
}

Input file_of(std::span<const std::byte> setup, std::span<const std::byte> board,
              std::span<const std::byte> vcpu, std::span<const std::byte> function,
              std::span<const std::byte> memory) {
  const auto header = encode_file_header();
  Input file(header.begin(), header.end());
  append(file, RecordKind::setup, setup);
  append(file, RecordKind::board, board);
  append(file, RecordKind::vcpu, vcpu);
  append(file, RecordKind::function, function);
  append(file, RecordKind::memory, memory);
  append(file, RecordKind::end, {});
  return file;
}

// As leanvm reads it, into a small memory with a guard on each side.
void judge_file(std::span<const std::byte> input) {
  std::size_t at = 0;
  auto reader = StateReader::create("input", [&](std::span<std::byte> out) -> Result<std::size_t> {
    const std::size_t count = std::min(out.size(), input.size() - at);
    if (count > 0) std::memcpy(out.data(), input.data() + at, count);
    at += count;
    return count;
  });
  if (!reader || !read_setup(**reader) || !read_state(**reader)) return;
  constexpr std::uint64_t page = virtio::guest_page, pages = 4;
  alignas(4096) static std::byte ram[(pages + 2) * page];
  std::ranges::fill(ram, std::byte{0xa5});
  auto memory = virtio::GuestMemory::create({{page, pages * page, ram + page}});
  require(memory.has_value(), "memory");
  (void)read_memory(**reader, **memory);
  const auto untouched = [](std::span<const std::byte> guard) {
    return std::ranges::all_of(guard, [](std::byte b) { return b == std::byte{0xa5}; });
  };
  require(untouched({ram, page}) && untouched({ram + (pages + 1) * page, page}),
          "nothing beyond memory is written");
}

template <class State>
void judge_again(const std::optional<State>& state, auto decode) {
  if (!state) return;
  const auto bytes = encode(*state);
  const auto again = decode(bytes);
  require(again && encode(*again) == bytes, "what was read can be written");
}

}  // namespace

std::vector<Input> seeds() {
  const auto setup = encode(sample_setup), board = encode(sample_board()),
             vcpu = encode(sample_vcpu()), function = encode(sample_function());
  Input memory(8 + virtio::guest_page, std::byte{1});
  store_le64(memory.data(), virtio::guest_page);
  return {file_of(setup, board, vcpu, function, memory), setup, board, vcpu, function, memory};
}

void run_one(std::span<const std::byte> input) {
  judge_file(input);
  judge_again(decode_setup(input), decode_setup);
  judge_again(decode_board(input), decode_board);
  judge_again(decode_vcpu(input), decode_vcpu);
  judge_again(decode_function(input), decode_function);
  const auto setup = encode(sample_setup), board = encode(sample_board()),
             vcpu = encode(sample_vcpu()), function = encode(sample_function());
  judge_file(file_of(setup, board, vcpu, function, input));
  judge_file(file_of(input, board, vcpu, function, {}));
  judge_file(file_of(setup, board, vcpu, input, {}));
}

}  // namespace tidepool::test
