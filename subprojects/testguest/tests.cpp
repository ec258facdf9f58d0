#include "tests.h"

#include "console.h"
#include "guest.h"
#include "virtio_balloon.h"
#include "virtio_block.h"
#include "virtio_net.h"
#include "virtio_scsi.h"

namespace {

constexpr uint32_t block_id = 2, scsi_id = 8;
constexpr uint32_t page = 4096;

VirtioPciDevice find_disk() {
  VirtioPciDevice device;
  require(find_virtio(block_id, 0, device), "no disk");
  require(device.common != 0 && device.notify != 0 && device.device != 0, "capabilities lack");
  return device;
}

// The word that belongs at each place of the disk: the host's judge knows it, too.
uint32_t pattern(uint32_t word) { return word * 2654435761U ^ 0x7469646eU; }

struct Random {
  uint32_t state = 12345;
  uint32_t operator()() {
    state = state * 1664525U + 1013904223U;
    return state >> 8 ^ state << 13;
  }
};

}  // namespace

void test_disk() {
  constexpr uint32_t batch = 16, rounds = 2;  // 128 KiB
  static BlockDriver disk;
  const VirtioPciDevice device = find_disk();
  uint8_t* const data = take_memory(batch * page, page);
  for (uint32_t mode = 0; mode < 2; ++mode) {
    disk.start(device, mode == 1);
    require(disk.sectors() >= rounds * batch * 8, "the disk is too small", disk.sectors());
    require(disk.has_flush(), "no flush");
    require(disk.run(BlockDriver::get_id, 0, data, 20) == 0, "get-id");
    require(data[0] == 'd' && data[4] == '0', "the disk's name", data[0]);
    auto* const words = reinterpret_cast<uint32_t*>(data);
    for (uint32_t round = 0; round < rounds; ++round) {
      for (uint32_t i = 0; i < batch * page / 4; ++i) {
        words[i] = pattern(round * batch * page / 4 + i);
      }
      const uint32_t failed = disk.write_pages(round * batch * 8, data, batch);
      require(failed == 0, "writes failed:", failed);
    }
    require(disk.run(BlockDriver::flush, 0, nullptr, 0) == 0, "flush");
    for (uint32_t round = 0; round < rounds; ++round) {
      memset(data, 0, batch * page);
      require(disk.run(BlockDriver::read, round * batch * 8, data, batch * page) == 0, "read");
      for (uint32_t i = 0; i < batch * page / 4; ++i) {
        require(words[i] == pattern(round * batch * page / 4 + i), "other data at word", i);
      }
    }
    require(disk.run(BlockDriver::read, disk.sectors(), data, 512) != 0, "a read past the end");
    disk.stop();
  }
  say_line("testguest: kicks", disk.queue().kicks());
}

void test_scsi() {
  constexpr uint32_t blocks = 256, chunk = 64;  // 128 KiB
  constexpr uint8_t bad_target = 3, check_condition = 2, illegal_request = 5, attention = 6;
  static ScsiDriver scsi;
  VirtioPciDevice device;
  require(find_virtio(scsi_id, 0, device), "no SCSI adapter");
  uint8_t* const data = take_memory(chunk * 512, page);
  auto* const words = reinterpret_cast<uint32_t*>(data);
  const auto at = [](uint8_t opcode, uint32_t block, uint8_t count, bool to_guest) {
    return ScsiDriver::Command{{opcode, 0, 0, 0, static_cast<uint8_t>(block >> 8),
                                static_cast<uint8_t>(block), 0, 0, count},
                               0,
                               0,
                               to_guest};
  };
  for (uint32_t round = 0; round < 2; ++round) {
    scsi.start(device);
    require(scsi.run({}, nullptr, 0) == 0 && scsi.status() == check_condition &&
                scsi.sense_key() == attention,
            "no unit attention", round);
    require(scsi.run({}, nullptr, 0) == 0 && scsi.status() == 0, "not ready", scsi.sense_key());
    require(scsi.run({{0x12, 0, 0, 0, 36}, 0, 0, true}, data, 64) == 0 && data[8] == 'T' &&
                scsi.residual() == 28,
            "INQUIRY", data[8]);
    require(scsi.run({{}, 1, 0, false}, nullptr, 0) == bad_target, "another target");
    require(scsi.run({{0x12, 0, 0, 0, 36}, 0, 9, true}, data, 36) == 0 && data[0] == 0x7f,
            "another unit", data[0]);
    for (uint32_t block = 0; block < blocks; block += chunk) {
      for (uint32_t i = 0; i < chunk * 128; ++i) words[i] = pattern(block * 128 + i);
      require(scsi.run(at(0x2a, block, chunk, false), data, chunk * 512) == 0 &&
                  scsi.status() == 0 && scsi.residual() == 0,
              "write", block);
    }
    require(scsi.run({{0x35}, 0, 0, false}, nullptr, 0) == 0 && scsi.status() == 0, "flush");
    for (uint32_t block = 0; block < blocks; block += chunk) {
      memset(data, 0, chunk * 512);
      require(scsi.run(at(0x28, block, chunk, true), data, chunk * 512) == 0 && scsi.status() == 0,
              "read", block);
      for (uint32_t i = 0; i < chunk * 128; ++i) {
        require(words[i] == pattern(block * 128 + i), "other data at word", block * 128 + i);
      }
    }
    require(scsi.run({{0x28, 0, 0x7f, 0, 0, 0, 0, 0, 1}, 0, 0, true}, data, 512) == 0 &&
                scsi.status() == check_condition && scsi.sense_key() == illegal_request,
            "a read past the end");
    scsi.stop();
  }
}

void test_scsi_lies() {
  static ScsiDriver scsi;
  VirtioPciDevice device;
  require(find_virtio(scsi_id, 0, device), "no SCSI adapter");
  for (uint32_t round = 0; round < 3; ++round) {
    scsi.start(device);
    require(scsi.lie(), "the device believes a lie", round);
    scsi.start(device);
    require(scsi.run({{0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0, 0, false}, nullptr, 0) == 0,
            "no answer after a lie", round);
    scsi.stop();
  }
}

// Once with a buffer for each packet, once with many small ones; each until the host says.
void test_net() {
  constexpr uint32_t net_id = 1;
  static NetDriver net;
  VirtioPciDevice device;
  require(find_virtio(net_id, 0, device), "no network card");
  for (uint32_t mode = 0; mode < 2; ++mode) {
    net.start(device, mode == 1);
    say_line("testguest: listening, mergeable", mode);
    say_line("testguest: packets", net.echo());
    net.stop();
  }
}

// Writes and reads back until a key is pressed.
void test_load() {
  constexpr uint32_t batch = 16, places = 8;
  constexpr uint16_t line_status = 0x3fd;
  static BlockDriver disk;
  disk.start(find_disk(), true);
  require(disk.sectors() >= places * batch * 8, "the disk is too small", disk.sectors());
  uint8_t* const data = take_memory(batch * page, page);
  auto* const words = reinterpret_cast<uint32_t*>(data);
  say("testguest: loading\n");
  uint32_t round = 0;
  for (; (in8(line_status) & 1) == 0; ++round) {
    const uint32_t first = round % places * batch * 8;
    for (uint32_t i = 0; i < batch * page / 4; i += 64) words[i] = pattern(round + i);
    const uint32_t failed = disk.write_pages(first, data, batch);
    require(failed == 0, "writes failed:", failed);
    memset(data, 0, 4);
    require(disk.run(BlockDriver::read, first, data, batch * page) == 0, "read");
    for (uint32_t i = 0; i < batch * page / 4; i += 64) {
      require(words[i] == pattern(round + i), "other data at word", i);
    }
  }
  say_line("testguest: rounds", round);
}

void test_refused() {
  static BlockDriver disk;
  disk.start(find_disk(), true);
  uint8_t* const data = take_memory(page, page);
  require(disk.run(BlockDriver::write, 0, data, 512) != 0, "a write was taken");
  require(disk.run(BlockDriver::read, 0, data, 512) == 0, "a read failed");
}

void test_reboot() {
  static BlockDriver disk;
  disk.start(find_disk(), true);
  uint8_t* const data = take_memory(page, page);
  require(disk.run(BlockDriver::read, 0, data, 512) == 0, "read");
  say_line("testguest: boots before this one:", data[0]);
  if (data[0] == 1) return;
  data[0] = 1;
  require(disk.run(BlockDriver::write, 0, data, 512) == 0, "write");
  reset();
}

void test_fault() {
  const uint16_t none[3] = {0, 0, 0};
  asm volatile("lidt %0; int3" : : "m"(none));
}

void test_lies() {
  constexpr uint16_t flag_next = 1, flag_write = 2, flag_indirect = 4;
  static BlockDriver disk;
  const VirtioPciDevice device = find_disk();
  uint8_t* const data = take_memory(page, page);
  const auto at = reinterpret_cast<uint32_t>(data);
  for (uint32_t lie = 0; lie < 6; ++lie) {
    disk.start(device, lie % 2 == 0);
    switch (lie) {
      case 0:  // a loop
        disk.queue().describe(0, at, 16, flag_next, 1);
        disk.queue().describe(1, at, 16, flag_next, 0);
        disk.queue().publish(0);
        break;
      case 1:  // beyond memory
        disk.queue().describe(0, 0xfffff000, 16, 0, 0);
        disk.queue().publish(0);
        break;
      case 2:  // no such descriptor
        disk.queue().publish(1000);
        break;
      case 3:  // a table in a table
        disk.queue().describe(0, at, 16, flag_indirect, 0);
        write_at<uint32_t>(at, at);
        write_at<uint32_t>(at + 4, 0);
        write_at<uint32_t>(at + 8, 16);
        write_at<uint16_t>(at + 12, flag_indirect);
        disk.queue().publish(0);
        break;
      case 4:  // no room for an answer
        disk.queue().describe(0, at, 16, 0, 0);
        disk.queue().publish(0);
        break;
      default:  // to be written, then to be read
        disk.queue().describe(0, at, 16, flag_next | flag_write, 1);
        disk.queue().describe(1, at, 16, 0, 0);
        disk.queue().publish(0);
        break;
    }
    disk.queue().kick();
    for (uint32_t turns = 0; !disk.broken(); ++turns) {
      require(turns < 10'000'000, "the device believes lie", lie);
    }
    disk.start(device, true);
    require(disk.run(BlockDriver::read, 0, data, 512) == 0, "no read after lie", lie);
    disk.stop();
  }
}

void test_hostile() {
  constexpr uint32_t rounds = 12, chains = 20, registers = 40;
  static BlockDriver disk;
  const VirtioPciDevice device = find_disk();
  uint8_t* const data = take_memory(page, page);
  const auto at = reinterpret_cast<uint32_t>(data);
  Random random;
  for (uint32_t round = 0; round < rounds; ++round) {
    disk.start(device, random() % 2 == 0);
    for (uint32_t i = 0; i < registers; ++i) {
      const uint32_t value = random(), place = random() % 0x8000;
      switch (random() % 4) {
        case 0:
          write_at<uint32_t>(device.bar + (place & ~3U), value);
          break;
        case 1:
          write_at<uint16_t>(device.bar + (place & ~1U), static_cast<uint16_t>(value));
          break;
        case 2:
          write_at<uint8_t>(device.bar + place, static_cast<uint8_t>(value));
          break;
        default:
          (void)read_at<uint32_t>(device.bar + (place & ~3U));
          break;
      }
      // All registers of the function but its BAR and command, which the next round needs.
      const uint32_t config = 0x40 + random() % 0xc0;
      write_config(device.slot, config, static_cast<uint8_t>(random()));
    }
    disk.start(device, random() % 2 == 0);
    for (uint32_t i = 0; i < chains; ++i) {
      for (uint16_t d = 0; d < 64; ++d) {
        const uint32_t address = random() % 4 == 0 ? random() : at + random() % page;
        disk.queue().describe(d, address, random() % 8 == 0 ? random() : random() % 600,
                              static_cast<uint16_t>(random() % 8),
                              static_cast<uint16_t>(random() % 70));
      }
      for (uint32_t word = 0; word < page; word += 4) {
        if (random() % 4 == 0) write_at<uint32_t>(at + word, random() % 16);
      }
      disk.queue().publish(static_cast<uint16_t>(random() % 66));
      disk.queue().kick();
    }
  }
  disk.start(device, true);
  require(disk.run(BlockDriver::read, 0, data, 512) == 0, "no read after all that");
}

void test_echo() {
  constexpr uint16_t serial = 0x3f8, line_status = serial + 5;
  char line[128];
  uint32_t length = 0;
  say("testguest: listening\n");
  for (;;) {
    if ((in8(line_status) & 1) == 0) continue;
    const char key = static_cast<char>(in8(serial));
    if (key == '\n' || length + 1 == sizeof line) break;
    line[length++] = key;
  }
  line[length] = 0;
  say("testguest: heard ");
  say(line);
  say("\n");
}

void test_button() {
  constexpr uint16_t power_status = 0x600;
  constexpr uint32_t entropy_id = 4;
  // As a driver with interrupts sets them up, though none is taken here.
  VirtioPciDevice entropy;
  require(find_virtio(entropy_id, 0, entropy), "no entropy");
  enable_message(entropy, 0xfee00000, 0x40);
  say("testguest: waiting\n");
  while ((in32(power_status) & 1U << 8) == 0) {
  }
}

// Each step is in the counter, in a chain of sums, in one of many pages of memory, on the
// disk and on the console: a step that is lost or comes twice in one of them shows.
void test_steps() {
  constexpr uint16_t power_status = 0x600;
  constexpr uint32_t first = 8U << 20, pages = 2048, places = 64;
  static BlockDriver disk;
  disk.start(find_disk(), true);
  require(disk.sectors() >= places * 8, "the disk is too small", disk.sectors());
  auto* const out = reinterpret_cast<uint32_t*>(take_memory(page, page));
  auto* const in = reinterpret_cast<uint32_t*>(take_memory(page, page));
  uint32_t sum = 0;
  for (uint32_t step = 1; (in32(power_status) & 1U << 8) == 0; ++step) {
    sum = (sum ^ step) * 2654435761U;
    const uint32_t place = first + step % pages * page;
    const uint32_t before = step > pages ? step - pages : 0;
    require(read_at<uint32_t>(place) == before,
            "memory has another step:", read_at<uint32_t>(place));
    write_at<uint32_t>(place, step);
    out[0] = step;
    out[1] = sum;
    for (uint32_t i = 2; i < page / 4; ++i) out[i] = pattern(step + i);
    const uint32_t sector = step % places * 8;
    require(disk.run(BlockDriver::write, sector, out, page) == 0, "write");
    if (step > 1) {
      const uint32_t other = (step - 1) % places * 8;
      require(disk.run(BlockDriver::read, other, in, page) == 0, "read");
      require(in[0] == step - 1, "the disk has another step:", in[0]);
      for (uint32_t i = 2; i < page / 4; ++i) {
        require(in[i] == pattern(step - 1 + i), "other data at word", i);
      }
    }
    say("step ");
    say_number(step);
    say_line("", sum);
  }
}

// Three parts of memory, 4 MiB each: one goes into the balloon and comes back, one is
// reported as free, one is kept. What was given away is zeros, what was kept is as it was.
void test_balloon() {
  constexpr uint32_t balloon_id = 5, pages = 1024;
  constexpr uint16_t power_status = 0x600;
  constexpr uint32_t given = 8U << 20, freed = given + pages * page, kept = freed + pages * page;
  static BalloonDriver balloon;
  VirtioPciDevice device;
  require(find_virtio(balloon_id, 0, device), "no balloon");
  balloon.start(device);
  const auto fill = [](uint32_t first) {
    for (uint32_t i = 0; i < pages; ++i) write_at<uint32_t>(first + i * page, first + i);
  };
  const auto judge = [](uint32_t first, bool zeros) {
    for (uint32_t i = 0; i < pages; ++i) {
      const uint32_t wanted = zeros ? 0 : first + i;
      require(read_at<uint32_t>(first + i * page) == wanted, "another page:", first / page + i);
    }
  };
  fill(given);
  fill(freed);
  fill(kept);
  say("testguest: filled\n");
  while (balloon.target() != pages) {
  }
  balloon.inflate(given, pages);
  balloon.set_held(pages);
  say("testguest: gave\n");
  while (balloon.target() != 0) {
  }
  balloon.deflate(given, pages);
  balloon.set_held(0);
  judge(given, true);
  fill(given);
  say("testguest: has all\n");
  while (balloon.target() != 1) {
  }
  // What is half a page at either end is not free.
  write_at<uint32_t>(freed + (pages - 1) * page, freed + pages - 1);
  balloon.report(freed - page / 2, freed + pages / 2 * page, pages / 2 * page);
  say("testguest: reported\n");
  while ((in32(power_status) & 1U << 8) == 0) {
  }
  judge(given, false);
  judge(kept, false);
  require(read_at<uint32_t>(freed) == 0, "a page is not free");
  require(read_at<uint32_t>(freed + (pages / 2 - 2) * page) == 0, "a page in the middle");
  require(read_at<uint32_t>(freed + (pages - 1) * page) == 0, "the last page");
  // The first piece ends half a page before the second: that page was not reported.
  require(read_at<uint32_t>(freed + (pages / 2 - 1) * page) == freed + pages / 2 - 1,
          "half a page");
  balloon.lie();
  while (!balloon.is_broken()) {
  }
}

void test_dirty() {
  constexpr uint32_t first = 8U << 20, bytes = 8U << 20;
  say("testguest: writing\n");
  for (uint32_t count = 1;; ++count) {
    for (uint32_t at = first; at < first + bytes; at += 3 * page) write_at<uint32_t>(at, count);
  }
}
