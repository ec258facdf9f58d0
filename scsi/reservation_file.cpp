#include "scsi/reservation_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/unique_fd.h"
#include "scsi/reservation_format.h"

namespace tidepool::scsi {

namespace {

Result<> write_all(int fd, std::span<const std::byte> data, const std::string& name) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return fail_errno(errno, fmt::format("cannot write '{}'", name));
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

class ReservationFile final : public ReservationStorage {
 public:
  explicit ReservationFile(const std::string& disk) : name_(disk + ".reservations") {}

  Result<ReservationState> load() override {
    const UniqueFd fd(::open(name_.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) {
      if (errno == ENOENT) return ReservationState{};
      return fail_errno(errno, fmt::format("cannot open '{}'", name_));
    }
    std::vector<std::byte> stored(largest_reservation_file + 1);
    std::size_t size = 0;
    while (size < stored.size()) {
      const ssize_t got = ::read(fd.get(), &stored[size], stored.size() - size);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", name_));
      if (got == 0) break;
      size += static_cast<std::size_t>(got);
    }
    return decode_reservations(std::span(stored).first(size), name_);
  }

  Result<> save(const ReservationState& state) override {
    if (!state.through_power_loss || state.registrants.empty()) {
      if (::unlink(name_.c_str()) == 0) return sync_directory();
      if (errno == ENOENT) return {};
      return fail_errno(errno, fmt::format("cannot remove '{}'", name_));
    }
    const std::string fresh = name_ + ".new";
    const UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) return fail_errno(errno, fmt::format("cannot create '{}'", fresh));
    if (auto written = write_all(fd.get(), encode_reservations(state), fresh); !written)
      return written;
    if (::fsync(fd.get()) != 0) return fail_errno(errno, fmt::format("cannot sync '{}'", fresh));
    if (::rename(fresh.c_str(), name_.c_str()) != 0)
      return fail_errno(errno, fmt::format("cannot rename '{}' to '{}'", fresh, name_));
    return sync_directory();
  }

 private:
  Result<> sync_directory() const {
    auto directory = std::filesystem::path(name_).parent_path();
    if (directory.empty()) directory = ".";
    const UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0)
      return fail_errno(errno, fmt::format("cannot sync the directory of '{}'", name_));
    return {};
  }

  const std::string name_;
};

}  // namespace

std::unique_ptr<ReservationStorage> reservation_file_of(const std::string& path) {
  return std::make_unique<ReservationFile>(path);
}

}  // namespace tidepool::scsi
