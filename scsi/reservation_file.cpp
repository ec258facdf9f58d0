#include "scsi/reservation_file.h"

#include <utility>

#include "scsi/reservation_format.h"

namespace tidepool::scsi {

namespace {

class ReservationFile final : public ReservationStorage {
 public:
  ReservationFile(std::unique_ptr<blockdev::Directory> directory, const std::string& disk)
      : directory_(std::move(directory)), file_(disk + ".reservations") {}

  Result<ReservationState> load() override {
    const auto stored = directory_->read(file_, largest_reservation_file + 1);
    if (stored) return decode_reservations(*stored, directory_->name() + "/" + file_);
    if (stored.error().kind == ErrorKind::not_found) return ReservationState{};
    return std::unexpected(stored.error());
  }

  Result<> save(const ReservationState& state) override {
    if (state.through_power_loss && !state.registrants.empty())
      return directory_->replace(file_, encode_reservations(state));
    auto removed = directory_->remove(file_);
    return !removed && removed.error().kind == ErrorKind::not_found ? Result<>() : removed;
  }

 private:
  const std::unique_ptr<blockdev::Directory> directory_;
  const std::string file_;
};

}  // namespace

std::unique_ptr<ReservationStorage> reservation_file_in(
    std::unique_ptr<blockdev::Directory> directory, const std::string& disk) {
  return std::make_unique<ReservationFile>(std::move(directory), disk);
}

}  // namespace tidepool::scsi
