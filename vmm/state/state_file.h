// A saved machine's file: records, one behind the other (state_format.md).
//
// Written to a file of another name in the same directory, which takes the wanted name
// when all of it is stable: a name never stands for half a machine. Read from the
// beginning to the end, each record whole and checked before it is seen.
//
// Blocking; one thread.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/state/record.h"

namespace tidepool::vmm {

class StateWriter {
 public:
  // Replaces a file of that name, at finish().
  static Result<std::unique_ptr<StateWriter>> create(const std::filesystem::path& path);
  ~StateWriter();  // what was not finished is removed
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;

  // first and second together are the content.
  Result<> put(RecordKind kind, std::uint32_t instance, std::span<const std::byte> first,
               std::span<const std::byte> second = {});
  Result<> finish();

 private:
  StateWriter(std::filesystem::path path, std::string temporary, UniqueFd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}
  Result<> write(std::span<const std::byte> bytes);

  const std::filesystem::path path_;
  const std::string temporary_;  // what it is called until it is finished
  const UniqueFd fd_;
  bool finished_ = false;
};

struct Record {
  RecordKind kind = RecordKind::end;
  std::uint32_t instance = 0;
  std::span<const std::byte> content;  // until the next one is read
};

class StateReader {
 public:
  // The next bytes, as many as there are; fewer than asked for only at the end.
  using Source = std::function<Result<std::size_t>(std::span<std::byte>)>;

  static Result<std::unique_ptr<StateReader>> open(const std::filesystem::path& path);
  // name: for messages.
  static Result<std::unique_ptr<StateReader>> create(std::string name, Source source);

  // Record by record; RecordKind::end is the last, after which nothing may follow.
  Result<Record> next();
  void put_back() { again_ = true; }  // the last one is the next one, too
  const std::string& name() const { return name_; }
  // A record that makes no sense, though its hash is right.
  std::unexpected<Error> senseless(const char* what) const;

 private:
  StateReader(std::string name, Source source)
      : name_(std::move(name)), source_(std::move(source)) {}
  Result<> read(std::span<std::byte> out);

  const std::string name_;
  const Source source_;
  std::uint64_t position_ = 0;  // bytes
  Record last_{.kind = RecordKind::setup};
  bool again_ = false;
  std::vector<std::byte> content_;
};

}  // namespace tidepool::vmm
