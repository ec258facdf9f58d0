// A kernel's file: what is found in it lies in it.
#include <asm/bootparam.h>
#include <elf.h>

#include <cstring>

#include "tests/fuzz/target.h"
#include "vmm/boot/kernel_image.h"

namespace tidepool::test {

using namespace vmm;

namespace {

void put(Input& out, std::size_t offset, const void* data, std::size_t size) {
  if (out.size() < offset + size) out.resize(offset + size);
  std::memcpy(out.data() + offset, data, size);
}

Input bzimage() {
  Input file(4096);
  setup_header header{};
  header.setup_sects = 1;
  header.header = 0x53726448;
  header.version = 0x20f;
  header.jump = 0x6aeb;
  header.xloadflags = XLF_KERNEL_64;
  header.syssize = 192;
  header.pref_address = 0x1000000;
  header.init_size = 0x100000;
  header.initrd_addr_max = 0x7fffffff;
  header.cmdline_size = 2047;
  put(file, 0x1f1, &header, sizeof header);
  return file;
}

template <class Header, class ProgramHeader>
Input elf(unsigned char kind) {
  Input file(2048);
  Header header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = kind;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(ProgramHeader);
  header.e_phnum = 2;
  put(file, 0, &header, sizeof header);
  ProgramHeader load{}, note{};
  load.p_type = PT_LOAD;
  load.p_offset = 512;
  load.p_paddr = 0x100000;
  load.p_filesz = 1024;
  load.p_memsz = 4096;
  note.p_type = PT_NOTE;
  note.p_offset = 512;
  note.p_filesz = 20;
  put(file, sizeof header, &load, sizeof load);
  put(file, sizeof header + sizeof load, &note, sizeof note);
  const std::uint32_t words[] = {4, 4, 18, 0x6e6558, 0x100014};
  put(file, 512, words, sizeof words);
  return file;
}

void inside(std::span<const std::byte> part, std::span<const std::byte> file) {
  if (part.empty()) return;
  require(part.data() >= file.data() && part.data() + part.size() <= file.data() + file.size(),
          "a part lies in the file");
}

}  // namespace

std::vector<Input> seeds() {
  const std::vector<Input> all{bzimage(), elf<Elf32_Ehdr, Elf32_Phdr>(ELFCLASS32),
                               elf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64)};
  for (const Input& input : all) require(parse_kernel(input, "seed").has_value(), "a seed is read");
  return all;
}

void run_one(std::span<const std::byte> input) {
  const auto image = parse_kernel(input, "input");
  if (!image) return require(!image.error().message.empty(), "an error says something");
  if (const auto* const linux_image = std::get_if<BzImage>(&*image)) {
    inside(linux_image->payload, input);
    require(linux_image->setup_header.size() <= sizeof(setup_header), "the header fits");
    require(linux_image->needed_bytes >= linux_image->payload.size(), "it has room for itself");
  } else {
    for (const ElfSegment& segment : std::get<ElfImage>(*image).segments) {
      inside(segment.content, input);
      require(segment.bytes >= segment.content.size(), "a segment has room for its content");
    }
  }
}

}  // namespace tidepool::test
