#include "vmm/boot/boot_loader.h"

#include <asm/bootparam.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/byte_order.h"
#include "base/checked.h"
#include "base/size_text.h"
#include "base/unique_fd.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/memory/memory_layout.h"

namespace tidepool::vmm {

namespace {

constexpr std::uint64_t most_file = 1 * gib;
constexpr std::uint64_t most_command_line = 64 * kib;  // of any protocol
constexpr std::uint32_t usable = 1, reserved = 2;      // kinds of memory, in both protocols
constexpr std::uint64_t page = 4096;

// A file of which only the headers are looked at here, through a mapping; what goes to the
// guest is read to its place at once, without a copy between.
class BootFile {
 public:
  static Result<BootFile> open(const std::filesystem::path& path, const char* what);
  BootFile(BootFile&& other) noexcept
      : path_(std::move(other.path_)),
        fd_(std::move(other.fd_)),
        bytes_(std::exchange(other.bytes_, {})) {}
  ~BootFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  std::span<const std::byte> bytes() const { return bytes_; }
  // part: of bytes()
  Result<> read(std::span<const std::byte> part, std::byte* to) const;

 private:
  BootFile(std::filesystem::path path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::filesystem::path path_;
  UniqueFd fd_;
  std::span<const std::byte> bytes_;
};

Result<BootFile> BootFile::open(const std::filesystem::path& path, const char* what) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot read the {} '{}'", what, path.native()));
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return fail(ErrorKind::invalid_argument, "the {} '{}' is not a file", what, path.native());
  }
  if (static_cast<std::uint64_t>(status.st_size) > most_file) {
    return fail(ErrorKind::invalid_argument, "the {} '{}' is larger than {}", what, path.native(),
                format_size(most_file));
  }
  BootFile file(path, std::move(fd));
  const auto length = static_cast<std::size_t>(status.st_size);
  if (length == 0) return file;
  void* const place = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, file.fd_.get(), 0);
  if (place == MAP_FAILED) return fail_errno(errno, fmt::format("cannot read '{}'", path.native()));
  file.bytes_ = {static_cast<const std::byte*>(place), length};
  return file;
}

Result<> BootFile::read(std::span<const std::byte> part, std::byte* to) const {
  auto offset = static_cast<off_t>(part.data() - bytes_.data());
  std::size_t left = part.size();
  while (left > 0) {
    const ssize_t got = ::pread(fd_.get(), to, left, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", path_.native()));
    if (got == 0) return fail(ErrorKind::io, "'{}' got shorter while it was read", path_.native());
    to += got, offset += got, left -= static_cast<std::size_t>(got);
  }
  return {};
}

struct MemoryRange {
  std::uint64_t begin, length;
  std::uint32_t kind;
};

std::vector<MemoryRange> memory_map(const GuestRam& ram) {
  std::vector<MemoryRange> map{
      {0, low_memory_end, usable},
      {low_memory_end, high_memory - low_memory_end, reserved},
      {high_memory, ram.low_end() - high_memory, usable},
      {ecam_address, ecam_bytes, reserved},
  };
  if (ram.size() > ram.low_end()) map.push_back({hole_end, ram.size() - ram.low_end(), usable});
  return map;
}

std::unexpected<Error> too_little(const GuestRam& ram, const std::string& what,
                                  std::uint64_t needed) {
  return fail(ErrorKind::no_space,
              "too little memory: {} needs {} of it, the guest has {}; give it more", what,
              format_size(round_up(needed, mib)), format_size(ram.size()));
}

struct Placed {
  std::uint64_t address = 0, length = 0;
};

// As high as it may be, so that it is out of the kernel's way.
Result<Placed> place_initrd(GuestRam& ram, const std::filesystem::path& path,
                            std::uint64_t kernel_end, std::uint64_t most_address) {
  if (path.empty()) return Placed{};
  auto file = BootFile::open(path, "initrd");
  if (!file) return std::unexpected(file.error());
  const std::span<const std::byte> bytes = file->bytes();
  if (bytes.empty())
    return fail(ErrorKind::invalid_argument, "the initrd '{}' is empty", path.native());
  const std::uint64_t end = std::min(ram.low_end(), most_address + 1);
  const std::uint64_t room = end > kernel_end ? end - kernel_end : 0;
  if (round_up<std::uint64_t>(bytes.size(), page) > round_down(room, page)) {
    return too_little(ram, fmt::format("the initrd '{}' with its kernel", path.native()),
                      kernel_end + bytes.size());
  }
  const std::uint64_t address = round_down(end - bytes.size(), page);
  if (auto read = file->read(bytes, ram.at(address, bytes.size())); !read)
    return std::unexpected(read.error());
  return Placed{address, bytes.size()};
}

Result<> place_command_line(GuestRam& ram, const std::string& text, std::uint64_t most) {
  most = std::min(most, most_command_line);
  if (text.size() > most || text.find('\0') != text.npos) {
    return fail(ErrorKind::invalid_argument,
                "the command line has {} bytes, the kernel takes {} (and none of them zero)",
                text.size(), most);
  }
  std::memcpy(ram.at(command_line_address, text.size() + 1), text.c_str(), text.size() + 1);
  return {};
}

Result<BootEntry> load(GuestRam& ram, const BzImage& image, const BootFile& kernel,
                       const BootFiles& files, std::uint64_t acpi) {
  std::byte* const place = ram.at(image.load_address, image.needed_bytes);
  const auto end = checked_add(image.load_address, image.needed_bytes);
  if (place == nullptr || !end || *end > ram.low_end() || image.load_address < high_memory) {
    return too_little(ram, fmt::format("the kernel '{}'", files.kernel.native()),
                      image.load_address + image.needed_bytes);
  }
  if (auto read = kernel.read(image.payload, place); !read) return std::unexpected(read.error());
  auto line = place_command_line(ram, files.command_line, image.most_command_line);
  if (!line) return std::unexpected(line.error());
  auto initrd = place_initrd(ram, files.initrd, *end, image.most_initrd_address);
  if (!initrd) return std::unexpected(initrd.error());

  boot_params parameters{};
  std::memcpy(&parameters.hdr, image.setup_header.data(), image.setup_header.size());
  constexpr std::uint8_t loader_without_number = 0xff;
  parameters.hdr.type_of_loader = loader_without_number;
  parameters.hdr.cmd_line_ptr = static_cast<std::uint32_t>(command_line_address);
  parameters.hdr.ramdisk_image = static_cast<std::uint32_t>(initrd->address);
  parameters.hdr.ramdisk_size = static_cast<std::uint32_t>(initrd->length);
  parameters.acpi_rsdp_addr = acpi;
  for (const MemoryRange& range : memory_map(ram)) {
    parameters.e820_table[parameters.e820_entries++] = {range.begin, range.length, range.kind};
  }
  std::memcpy(ram.at(boot_data_address, sizeof parameters), &parameters, sizeof parameters);
  constexpr std::uint64_t entry_offset = 0x200;  // of the 64-bit entry
  return BootEntry{BootEntry::Mode::long_64, image.load_address + entry_offset, boot_data_address};
}

// Xen's public start_info.h, version 1: only numbers, all little-endian.
void write_start_info(GuestRam& ram, const Placed& initrd, std::uint64_t acpi) {
  constexpr std::uint32_t magic = 0x336ec578;
  constexpr std::uint64_t module_offset = 64, map_offset = 128, map_entry = 24;
  const auto map = memory_map(ram);
  std::byte* const info = ram.at(boot_data_address, map_offset + map.size() * map_entry);
  std::memset(info, 0, map_offset);
  store_le32(info, magic);
  store_le32(info + 4, 1U);
  store_le64(info + 24, command_line_address);
  store_le64(info + 32, acpi);
  store_le64(info + 40, boot_data_address + map_offset);
  store_le32(info + 48, static_cast<std::uint32_t>(map.size()));
  if (initrd.length > 0) {
    store_le32(info + 12, 1U);
    store_le64(info + 16, boot_data_address + module_offset);
    store_le64(info + module_offset, initrd.address);
    store_le64(info + module_offset + 8, initrd.length);
  }
  for (std::size_t i = 0; i < map.size(); ++i) {
    std::byte* const entry = info + map_offset + i * map_entry;
    store_le64(entry, map[i].begin);
    store_le64(entry + 8, map[i].length);
    store_le32(entry + 16, map[i].kind);
    store_le32(entry + 20, 0U);
  }
}

Result<BootEntry> load(GuestRam& ram, const ElfImage& image, const BootFile& kernel,
                       const BootFiles& files, std::uint64_t acpi) {
  std::uint64_t end = 0;
  for (const ElfSegment& segment : image.segments) {
    const auto segment_end = checked_add(segment.address, segment.bytes);
    std::byte* const place = ram.at(segment.address, segment.bytes);
    if (place == nullptr || !segment_end || *segment_end > ram.low_end()) {
      return too_little(ram, fmt::format("the kernel '{}'", files.kernel.native()),
                        segment_end.value_or(UINT64_MAX / 2));
    }
    if (segment.address < high_memory) {
      return fail(ErrorKind::unsupported, "kernel '{}': a segment lies below 1 MiB, at {:#x}",
                  files.kernel.native(), segment.address);
    }
    // The rest is zeros.
    if (auto read = kernel.read(segment.content, place); !read)
      return std::unexpected(read.error());
    end = std::max(end, *segment_end);
  }
  auto line = place_command_line(ram, files.command_line, most_command_line - 1);
  if (!line) return std::unexpected(line.error());
  auto initrd = place_initrd(ram, files.initrd, end, UINT32_MAX);
  if (!initrd) return std::unexpected(initrd.error());
  write_start_info(ram, *initrd, acpi);
  return BootEntry{BootEntry::Mode::protected_32, image.entry, boot_data_address};
}

}  // namespace

Result<BootEntry> load_kernel(GuestRam& ram, const BootFiles& files, std::uint64_t acpi) {
  auto kernel = BootFile::open(files.kernel, "kernel");
  if (!kernel) return std::unexpected(kernel.error());
  auto image = parse_kernel(kernel->bytes(), files.kernel.native());
  if (!image) return std::unexpected(image.error());
  return std::visit([&](const auto& kind) { return load(ram, kind, *kernel, files, acpi); },
                    *image);
}

}  // namespace tidepool::vmm
