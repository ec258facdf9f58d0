#include "vmm/boot/kernel_image.h"

#include <asm/bootparam.h>
#include <elf.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>

#include "base/byte_order.h"
#include "base/checked.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint64_t header_offset = 0x1f1;  // of the setup header, in file and zero page
constexpr std::uint64_t setup_sector = 512;
constexpr std::uint16_t version_with_64_bit = 0x20c;
constexpr std::uint32_t note_physical_entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::uint64_t most_program_headers = 64;

template <class T>
std::optional<T> read_at(std::span<const std::byte> file, std::uint64_t offset) {
  if (!range_fits(offset, sizeof(T), file.size())) return std::nullopt;
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

Result<KernelImage> parse_bzimage(std::span<const std::byte> file, const std::string& name) {
  const auto header = read_at<setup_header>(file, header_offset);
  if (!header) return fail(ErrorKind::corrupt, "kernel '{}' is cut short", name);
  if (header->version < version_with_64_bit || (header->xloadflags & XLF_KERNEL_64) == 0) {
    return fail(ErrorKind::unsupported, "kernel '{}' has no 64-bit entry", name);
  }
  // The header says itself how long it is: its jump goes over it.
  const std::uint64_t header_end = 0x202 + (header->jump >> 8);
  const std::uint64_t setup_sectors = header->setup_sects == 0 ? 4 : header->setup_sects;
  const std::uint64_t payload = (setup_sectors + 1) * setup_sector;
  const std::uint64_t length = std::uint64_t{header->syssize} * 16;
  if (header_end <= header_offset || header_end > header_offset + sizeof(setup_header) ||
      !range_fits(payload, 1, file.size()) || length > file.size() - payload + 15) {
    return fail(ErrorKind::corrupt, "kernel '{}' is damaged or cut short", name);
  }
  BzImage image;
  image.setup_header.assign(file.begin() + static_cast<std::ptrdiff_t>(header_offset),
                            file.begin() + static_cast<std::ptrdiff_t>(header_end));
  image.load_address = header->pref_address;
  image.payload = file.subspan(payload);
  image.needed_bytes = std::max<std::uint64_t>(header->init_size, image.payload.size());
  image.most_initrd_address = header->initrd_addr_max;
  image.most_command_line = header->cmdline_size;
  return image;
}

// ELF of 32 and 64 bits, field by field the same.
template <class Header, class ProgramHeader>
Result<KernelImage> parse_elf(std::span<const std::byte> file, const std::string& name) {
  const auto damaged = [&] {
    return fail(ErrorKind::corrupt, "kernel '{}': its ELF headers are damaged or cut short", name);
  };
  const auto header = read_at<Header>(file, 0);
  if (!header || header->e_phentsize != sizeof(ProgramHeader) ||
      header->e_phnum > most_program_headers) {
    return damaged();
  }
  ElfImage image;
  for (std::uint64_t i = 0; i < header->e_phnum; ++i) {
    const auto at = checked_add(std::uint64_t{header->e_phoff}, i * sizeof(ProgramHeader));
    const auto entry = at ? read_at<ProgramHeader>(file, *at) : std::nullopt;
    if (!entry) return damaged();
    if (entry->p_type != PT_LOAD && entry->p_type != PT_NOTE) continue;
    if (!range_fits(entry->p_offset, entry->p_filesz, file.size())) return damaged();
    const auto content = file.subspan(entry->p_offset, entry->p_filesz);
    if (entry->p_type == PT_LOAD) {
      if (entry->p_memsz < entry->p_filesz) return damaged();
      if (entry->p_memsz > 0) image.segments.push_back({entry->p_paddr, entry->p_memsz, content});
      continue;
    }
    for (std::uint64_t note = 0; range_fits(note, sizeof(Elf32_Nhdr), content.size());) {
      const auto head = *read_at<Elf32_Nhdr>(content, note);
      const std::uint64_t owner = note + sizeof head;
      const std::uint64_t data = owner + round_up(std::uint64_t{head.n_namesz}, std::uint64_t{4});
      const bool is_entry = head.n_type == note_physical_entry && head.n_namesz == 4 &&
                            range_fits(owner, 4, content.size()) &&
                            std::memcmp(content.data() + owner, "Xen", 4) == 0;
      const auto value = read_at<std::uint32_t>(content, data);
      if (is_entry && head.n_descsz >= sizeof *value && value) image.entry = *value;
      note = data + round_up(std::uint64_t{head.n_descsz}, std::uint64_t{4});
    }
  }
  if (image.entry == 0 || image.segments.empty()) {
    return fail(ErrorKind::unsupported,
                "kernel '{}' has no PVH entry (Linux needs CONFIG_PVH for it)", name);
  }
  return image;
}

}  // namespace

Result<KernelImage> parse_kernel(std::span<const std::byte> file, const std::string& name) {
  if (file.size() >= EI_NIDENT && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0) {
    const auto kind = static_cast<unsigned char>(file[EI_CLASS]);
    if (kind == ELFCLASS64) return parse_elf<Elf64_Ehdr, Elf64_Phdr>(file, name);
    if (kind == ELFCLASS32) return parse_elf<Elf32_Ehdr, Elf32_Phdr>(file, name);
  }
  constexpr std::uint64_t magic_offset = header_offset + offsetof(setup_header, header);
  constexpr std::uint32_t magic = 0x53726448;  // "HdrS"
  const auto found = read_at<std::uint32_t>(file, magic_offset);
  if (found && *found == magic) return parse_bzimage(file, name);
  return fail(ErrorKind::invalid_argument,
              "'{}' is not a kernel: neither a bzImage nor an ELF image of x86", name);
}

}  // namespace tidepool::vmm
