// The calls on a file's content and size.
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include <algorithm>

#include "tests/conformance/native_side.h"

namespace judge {
namespace {

void sizes(Side& side) {
  Fd file = side.make_file("f", 10000);
  side.call("truncate down", truncate(side.path("f").c_str(), 5000));
  side.content("content", file.get());
  side.call("truncate up", ftruncate(file.get(), 300000));
  side.content("zeros follow", file.get());
  side.status("size", file.get());
  side.call("truncate negative", ftruncate(file.get(), -1));
  side.call("truncate huge", ftruncate(file.get(), off_t{1} << 43));
  side.status("size, huge", file.get());
  side.call("back", ftruncate(file.get(), 4097));
  side.content("content", file.get());
  Fd reader = side.open("open read only", "f", O_RDONLY);
  side.call("truncate read only", ftruncate(reader.get(), 1));
  side.call("truncate missing", truncate(side.path("none").c_str(), 1));
  side.call("truncate a directory", truncate(side.directory().c_str(), 1));
}

void reads_and_writes(Side& side) {
  Fd file = side.make_file("f", 10000);
  char data[100];
  side.call("read past the end", pread(file.get(), data, sizeof data, 10000));
  side.call("read far past", pread(file.get(), data, sizeof data, 1 << 30));
  side.call("read across the end", pread(file.get(), data, sizeof data, 9950));
  side.call("read nothing", pread(file.get(), data, 0, 0));
  side.call("read negative", pread(file.get(), data, 1, -1));
  side.call("write nothing", pwrite(file.get(), data, 0, 5));
  side.call("write nothing past the end", pwrite(file.get(), data, 0, 500000));
  side.status("size", file.get());
  side.call("write beyond", pwrite(file.get(), "far", 3, 1000000));
  side.content("content", file.get(), 2 << 20);
  Fd reader = side.open("read only", "f", O_RDONLY);
  side.call("write to it", write(reader.get(), "x", 1));
  Fd writer = side.open("write only", "f", O_WRONLY);
  side.call("read from it", read(writer.get(), data, 1));
  const std::string one = pattern(777, 3), two = pattern(5000, 4);
  const iovec parts[2] = {{const_cast<char*>(one.data()), one.size()},
                          {const_cast<char*>(two.data()), two.size()}};
  side.call("writev", pwritev(file.get(), parts, 2, 12345));
  side.content("content", file.get(), 2 << 20);
  side.call("seek end", lseek(file.get(), 0, SEEK_END));
  side.call("seek negative", lseek(file.get(), -1, SEEK_SET));
  side.call("seek beyond", lseek(file.get(), 5000000, SEEK_SET));
  side.call("write there", write(file.get(), "end", 3));
  side.status("size", file.get());
}

void seek_data(Side& side) {
  Fd file = side.open("create", "f", O_CREAT | O_RDWR);
  side.call("data in an empty file", lseek(file.get(), 0, SEEK_DATA));
  side.call("hole in an empty file", lseek(file.get(), 0, SEEK_HOLE));
  side.call("size", ftruncate(file.get(), 1 << 20));
  side.call("data in a thin file", lseek(file.get(), 0, SEEK_DATA));
  side.call("hole in a thin file", lseek(file.get(), 0, SEEK_HOLE));
  const std::string data = pattern(65536);
  side.call("write", pwrite(file.get(), data.data(), data.size(), 256 << 10));
  side.call("fsync", fsync(file.get()));
  side.call("data from 0", lseek(file.get(), 0, SEEK_DATA));
  side.call("hole from the data", lseek(file.get(), 256 << 10, SEEK_HOLE));
  side.call("data inside the data", lseek(file.get(), 260 << 10, SEEK_DATA));
  side.call("hole from 0", lseek(file.get(), 0, SEEK_HOLE));
  side.call("data after it", lseek(file.get(), 320 << 10, SEEK_DATA));
  side.call("data at the end", lseek(file.get(), 1 << 20, SEEK_DATA));
  side.call("hole at the end", lseek(file.get(), 1 << 20, SEEK_HOLE));
  side.call("hole before the end", lseek(file.get(), (1 << 20) - 1, SEEK_HOLE));
  side.call("data far past", lseek(file.get(), 1 << 30, SEEK_DATA));
  side.call("data negative", lseek(file.get(), -5, SEEK_DATA));
}

void allocation(Side& side) {
  Fd file = side.make_file("f", 100000);
  const auto blocks = [&](const char* what) {
    struct stat status {};
    fstat(file.get(), &status);
    side.note(std::string(what) + " holds at least its range " +
              std::to_string(status.st_blocks * 512 >= 1 << 20));
  };
  side.call("allocate", fallocate(file.get(), 0, 0, 1 << 20));
  side.status("size", file.get());
  blocks("allocate");
  side.content("content", file.get(), 2 << 20);
  side.call("allocate beyond, keep size",
            fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20));
  side.status("size", file.get());
  side.call("punch",
            fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 50000));
  side.content("content", file.get(), 2 << 20);
  side.call("punch without keep size", fallocate(file.get(), FALLOC_FL_PUNCH_HOLE, 0, 4096));
  side.call("punch beyond the end",
            fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 << 20, 4096));
  side.status("size", file.get());
  side.call("zero", fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 60000, 5000));
  side.content("content", file.get(), 2 << 20);
  side.call("zero beyond the end", fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 2 << 20, 12345));
  side.status("size", file.get());
  side.call("zero beyond, keep size",
            fallocate(file.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4 << 20, 4096));
  side.status("size", file.get());
  side.call("no length", fallocate(file.get(), 0, 0, 0));
  side.call("negative", fallocate(file.get(), 0, -1, 4096));
  side.content("content", file.get(), 4 << 20);
  Fd reader = side.open("read only", "f", O_RDONLY);
  side.call("allocate read only", fallocate(reader.get(), 0, 0, 4096));
  side.call("posix_fallocate", posix_fallocate(file.get(), 0, 3 << 20));
  side.status("size", file.get());
}

// By themselves: what follows an accepted shift would differ from what follows a
// refused one.
void shifting(Side& side) {
  Fd file = side.make_file("f", 65536);
  side.call("collapse", fallocate(file.get(), FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
  Fd other = side.make_file("g", 65536);
  side.call("insert", fallocate(other.get(), FALLOC_FL_INSERT_RANGE, 0, 4096));
}

void mapping(Side& side) {
  Fd file = side.make_file("f", 20000);
  auto* memory =
      static_cast<char*>(mmap(nullptr, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
  side.note(std::string("map ") + (memory == MAP_FAILED ? strerrorname_np(errno) : "done"));
  if (memory == MAP_FAILED) return;
  side.note("map sees the file " +
            std::to_string(std::equal(memory, memory + 20000, pattern(20000).begin())));
  side.call("write", pwrite(file.get(), "through the file", 16, 5000));
  side.note("map sees the write " + std::string(memory + 5000, 16));
  std::memcpy(memory + 9000, "through the map", 15);
  side.content("file sees the map", file.get());
  side.call("msync", msync(memory, 20000, MS_SYNC));
  side.call("punch", fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
  side.note("map sees the hole " + std::to_string(memory[5000] == 0 && memory[9000] == 0));
  side.call("truncate", ftruncate(file.get(), 6000));
  side.call("and back", ftruncate(file.get(), 20000));
  side.note("map sees zeros " + std::to_string(memory[13000] == 0));
  std::memcpy(memory + 19990, "last bytes", 10);
  side.call("unmap", munmap(memory, 20000));
  Fd again = side.open("open again", "f", O_RDONLY);
  side.content("content", again.get());
  void* refused = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again.get(), 0);
  side.call("writable map of a read only descriptor", refused == MAP_FAILED ? -1 : 0);
  auto* copy =
      static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, again.get(), 0));
  side.note(std::string("private map ") + (copy == MAP_FAILED ? strerrorname_np(errno) : "done"));
  if (copy == MAP_FAILED) return;
  copy[0] = 'X';
  side.content("a private map changes nothing", again.get());
  munmap(copy, 4096);
}

void copying(Side& side) {
  Fd from = side.make_file("from", 300000);
  Fd to = side.make_file("to", 0);
  off_t in = 1000, out = 5000;
  side.call("copy_file_range", copy_file_range(from.get(), &in, to.get(), &out, 200000, 0));
  side.content("copied", to.get());
  in = 300000;
  side.call("copy from the end", copy_file_range(from.get(), &in, to.get(), &out, 1000, 0));
  in = 0, out = 50000;
  side.call("copy onto itself", copy_file_range(from.get(), &in, from.get(), &out, 100000, 0));
  off_t start = 12345;
  lseek(to.get(), 0, SEEK_SET);
  side.call("sendfile", sendfile(to.get(), from.get(), &start, 100000));
  side.content("sent", to.get());
}

void direct_access(Side& side) {
  side.make_file("f", 1 << 20);
  Fd file = side.open("open direct", "f", O_RDWR | O_DIRECT);
  const auto buffer = aligned_buffer(1 << 16);
  const std::string data = pattern(1 << 16, 9);
  std::copy(data.begin(), data.end(), buffer.get());
  side.call("aligned write", pwrite(file.get(), buffer.get(), 65536, 65536));
  side.call("aligned read", pread(file.get(), buffer.get(), 65536, 131072));
  side.call("sector write", pwrite(file.get(), buffer.get(), 512, 512));
  side.call("sector read", pread(file.get(), buffer.get(), 1024, 512));
  side.call("read across the end", pread(file.get(), buffer.get(), 65536, (1 << 20) - 4096));
  side.call("read at the end", pread(file.get(), buffer.get(), 4096, 1 << 20));
  side.call("extending", pwrite(file.get(), buffer.get(), 4096, 2 << 20));
  side.status("size", file.get());
  Fd cached = side.open("open cached", "f", O_RDWR);
  side.content("content", cached.get(), 4 << 20);
  side.call("cached write", pwrite(cached.get(), "cached", 6, 4096));
  side.call("direct read", pread(file.get(), buffer.get(), 4096, 4096));
  side.note("direct sees cached " + std::string(reinterpret_cast<char*>(buffer.get()), 6));
}

void direct_unaligned(Side& side) {
  side.make_file("f", 1 << 20);
  Fd file = side.open("open direct", "f", O_RDWR | O_DIRECT);
  const auto buffer = aligned_buffer(4096);
  side.call("odd length", pwrite(file.get(), buffer.get(), 100, 0));
  side.call("odd offset", pread(file.get(), buffer.get(), 512, 100));
  side.call("odd memory", pread(file.get(), buffer.get() + 1, 512, 0));
}

void temporary_file(Side& side) {
  Fd file(static_cast<int>(side.call(
      "O_TMPFILE", ::open(side.directory().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), true)));
}

void locks(Side& side) {
  Fd one = side.make_file("f", 100);
  Fd two = side.open("second", "f", O_RDWR);
  side.call("flock", flock(one.get(), LOCK_EX | LOCK_NB));
  side.call("flock by second", flock(two.get(), LOCK_EX | LOCK_NB));
  side.call("unlock", flock(one.get(), LOCK_UN));
  side.call("flock by second now", flock(two.get(), LOCK_EX | LOCK_NB));
  struct flock range {};
  range.l_type = F_WRLCK, range.l_whence = SEEK_SET, range.l_start = 10, range.l_len = 10;
  side.call("open file description lock", fcntl(one.get(), F_OFD_SETLK, &range));
  range.l_pid = 0;
  side.call("held by another", fcntl(two.get(), F_OFD_SETLK, &range));
}

void many_handles(Side& side) {
  side.make_file("f", 10000);
  std::vector<Fd> files;
  for (int i = 0; i < 200; i++)
    files.emplace_back(::open(side.path("f").c_str(), O_RDWR | O_CLOEXEC));
  for (std::size_t i = 0; i < files.size(); i++)
    if (pwrite(files[i].get(), &i, 1, static_cast<off_t>(i * 40)) != 1) side.note("write failed");
  for (const auto& file : files)
    if (fsync(file.get()) < 0) side.note("fsync failed");
  side.content("content", files[0].get());
}

}  // namespace

const std::vector<Case> content_cases = {
    {"sizes", sizes},
    {"reads_and_writes", reads_and_writes},
    {"seek_data", seek_data},
    {"allocation", allocation},
    {"shifting", shifting},
    {"mapping", mapping},
    {"copying", copying},
    {"direct_access", direct_access},
    {"direct_unaligned", direct_unaligned},
    {"temporary_file", temporary_file},
    {"locks", locks},
    {"many_handles", many_handles},
};

}  // namespace judge
