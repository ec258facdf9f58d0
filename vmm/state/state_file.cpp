#include "vmm/state/state_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/size_text.h"

namespace tidepool::vmm {

namespace {

Result<> sync_directory_of(const std::filesystem::path& path) {
  const std::filesystem::path directory = path.parent_path().empty() ? "." : path.parent_path();
  const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd && ::fsync(fd.get()) == 0) return {};
  return fail_errno(errno, fmt::format("cannot make '{}' stable", path.native()));
}

}  // namespace

Result<std::unique_ptr<StateWriter>> StateWriter::create(const std::filesystem::path& path) {
  std::string temporary = path.native() + ".XXXXXX";
  UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot create '{}'", path.native()));
  std::unique_ptr<StateWriter> writer(new StateWriter(path, std::move(temporary), std::move(fd)));
  if (auto begun = writer->write(encode_file_header()); !begun)
    return std::unexpected(begun.error());
  return writer;
}

StateWriter::~StateWriter() {
  if (!finished_) ::unlink(temporary_.c_str());
}

Result<> StateWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return fail_errno(written < 0 ? errno : ENOSPC,
                        fmt::format("cannot write '{}'", path_.native()));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Result<> StateWriter::put(RecordKind kind, std::uint32_t instance, std::span<const std::byte> first,
                          std::span<const std::byte> second) {
  RecordHeader header{.kind = kind, .instance = instance, .length = first.size() + second.size()};
  if (header.length > most_record_bytes) {
    return fail(ErrorKind::no_space, "'{}': {} of state in one piece, at most {} are possible",
                path_.native(), format_size(header.length), format_size(most_record_bytes));
  }
  header.hash = hash_of(header, first, second);
  const auto framed = encode(header);
  auto written = write(framed);
  if (written) written = write(first);
  return written ? write(second) : written;
}

Result<> StateWriter::finish() {
  if (auto ended = put(RecordKind::end, 0, {}); !ended) return ended;
  if (::fsync(fd_.get()) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return fail_errno(errno, fmt::format("cannot write '{}'", path_.native()));
  }
  finished_ = true;
  auto stable = sync_directory_of(path_);
  if (!stable) ::unlink(path_.c_str());  // the machine goes on: it must not be restored
  return stable;
}

Result<std::unique_ptr<StateReader>> StateReader::open(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path.native()));
  const auto file = std::make_shared<UniqueFd>(std::move(fd));
  return create(path.native(),
                [file, name = path.native()](std::span<std::byte> out) -> Result<std::size_t> {
                  std::size_t done = 0;
                  while (done < out.size()) {
                    const ssize_t got = ::read(file->get(), out.data() + done, out.size() - done);
                    if (got < 0 && errno == EINTR) continue;
                    if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", name));
                    if (got == 0) break;
                    done += static_cast<std::size_t>(got);
                  }
                  return done;
                });
}

Result<std::unique_ptr<StateReader>> StateReader::create(std::string name, Source source) {
  std::unique_ptr<StateReader> reader(new StateReader(std::move(name), std::move(source)));
  std::array<std::byte, file_header_bytes> header;
  if (auto got = reader->read(header); !got) return std::unexpected(got.error());
  if (auto checked = check_file_header(header, reader->name_); !checked)
    return std::unexpected(checked.error());
  return reader;
}

Result<> StateReader::read(std::span<std::byte> out) {
  const auto got = source_(out);
  if (!got) return std::unexpected(got.error());
  position_ += *got;
  if (*got == out.size()) return {};
  return fail(ErrorKind::corrupt, "'{}' is cut short: it ends after {} bytes", name_, position_);
}

std::unexpected<Error> StateReader::senseless(const char* what) const {
  return fail(ErrorKind::corrupt, "'{}' makes no sense: {}", name_, what);
}

Result<Record> StateReader::next() {
  if (std::exchange(again_, false)) return last_;
  const std::uint64_t begin = position_;
  std::array<std::byte, record_header_bytes> bytes;
  if (auto got = read(bytes); !got) return std::unexpected(got.error());
  const RecordHeader header = decode_record_header(bytes);
  if (header.length > most_record_bytes) {
    return fail(ErrorKind::corrupt, "'{}' is damaged at byte {}: no record is so long", name_,
                begin);
  }
  content_.resize(header.length);
  if (auto got = read(content_); !got) return std::unexpected(got.error());
  if (header.hash != hash_of(header, content_, {})) {
    return fail(ErrorKind::corrupt, "'{}' is damaged: the record at byte {} has another hash",
                name_, begin);
  }
  if (header.version != record_version) {
    return fail(ErrorKind::unsupported,
                "'{}': a record of version {}, this program knows version {}", name_,
                header.version, record_version);
  }
  if (header.kind < last_.kind || header.kind > RecordKind::end)
    return senseless("a record is out of order");
  last_ = {header.kind, header.instance, content_};
  if (header.kind == RecordKind::end) {
    std::byte more;
    const auto got = source_({&more, 1});
    if (!got) return std::unexpected(got.error());
    if (*got != 0 || header.length != 0) return senseless("it goes on behind its end");
  }
  return last_;
}

}  // namespace tidepool::vmm
