#include "scsi/iscsi/chap.h"

#include <fcntl.h>
#include <nettle/md5.h>
#include <nettle/sha1.h>
#include <nettle/sha2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "base/unique_fd.h"
#include "scsi/iscsi/text.h"

namespace tidepool::scsi::iscsi {

namespace {

constexpr std::size_t largest_file = 64 * 1024;  // bytes
constexpr std::size_t least_secret = 12;         // RFC 7143 9.2.1 wants 96 bits

const std::uint8_t* raw(const void* data) { return static_cast<const std::uint8_t*>(data); }

template <class Context, auto init, auto update, auto digest, std::size_t size>
std::vector<std::byte> hash(std::uint8_t identifier, const std::string& secret,
                            std::span<const std::byte> challenge) {
  Context context;
  init(&context);
  update(&context, 1, &identifier);
  update(&context, secret.size(), raw(secret.data()));
  update(&context, challenge.size(), raw(challenge.data()));
  std::vector<std::byte> out(size);
  digest(&context, size, reinterpret_cast<std::uint8_t*>(out.data()));
  return out;
}

}  // namespace

Result<Accounts> parse_accounts(std::string_view text, const std::string& name) {
  Accounts accounts;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (unsigned number = 1; std::getline(lines, line); ++number) {
    std::istringstream words(line);
    std::string kind, extra;
    Account account;
    if (!(words >> kind) || kind.starts_with('#')) continue;
    const auto wrong = [&](const char* what) {
      // The line itself is not repeated: it may hold a secret.
      return fail(ErrorKind::invalid_argument, "'{}', line {}: {}", name, number, what);
    };
    if (!(words >> account.name >> account.secret) || (words >> extra))
      return wrong("expected \"initiator NAME SECRET\" or \"target NAME SECRET\"");
    if (account.secret.size() < least_secret)
      return wrong("the secret is shorter than 12 characters");
    if (kind == "initiator") {
      accounts.initiators.push_back(std::move(account));
    } else if (kind == "target") {
      if (accounts.target) return wrong("a second account of the target");
      accounts.target = std::move(account);
    } else {
      return wrong("expected \"initiator\" or \"target\" at its beginning");
    }
  }
  if (accounts.initiators.empty())
    return fail(
        ErrorKind::invalid_argument,
        "'{}' names no initiator: nobody could log in; add a line \"initiator NAME SECRET\"", name);
  for (const Account& account : accounts.initiators)
    if (accounts.target && accounts.target->secret == account.secret)
      return fail(ErrorKind::invalid_argument,
                  "'{}': target and initiator '{}' have the same secret; they must differ", name,
                  account.name);
  return accounts;
}

Result<Accounts> read_accounts(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, fmt::format("cannot open '{}'", path));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0)
    return fail_errno(errno, fmt::format("cannot read '{}'", path));
  if ((info.st_mode & 077) != 0)
    return fail(ErrorKind::permission, "'{}' holds secrets and can be read by others: chmod 600 it",
                path);
  std::string text(largest_file + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, fmt::format("cannot read '{}'", path));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > largest_file)
    return fail(ErrorKind::invalid_argument, "'{}' is larger than 64 KiB", path);
  return parse_accounts(std::string_view(text).substr(0, size), path);
}

std::optional<ChapAlgorithm> choose_algorithm(std::string_view list) {
  std::optional<ChapAlgorithm> best;
  for (const std::string_view entry : split_list(list)) {
    const auto number = parse_number(entry);
    if (!number || *number < 5 || *number > 7) continue;
    const auto algorithm = static_cast<ChapAlgorithm>(*number);
    if (!best || algorithm > *best) best = algorithm;
  }
  return best;
}

std::vector<std::byte> chap_response(ChapAlgorithm algorithm, std::uint8_t identifier,
                                     const std::string& secret,
                                     std::span<const std::byte> challenge) {
  switch (algorithm) {
    case ChapAlgorithm::sha1:
      return hash<sha1_ctx, nettle_sha1_init, nettle_sha1_update, nettle_sha1_digest,
                  SHA1_DIGEST_SIZE>(identifier, secret, challenge);
    case ChapAlgorithm::sha256:
      return hash<sha256_ctx, nettle_sha256_init, nettle_sha256_update, nettle_sha256_digest,
                  SHA256_DIGEST_SIZE>(identifier, secret, challenge);
    case ChapAlgorithm::md5:
      break;
  }
  return hash<md5_ctx, nettle_md5_init, nettle_md5_update, nettle_md5_digest, MD5_DIGEST_SIZE>(
      identifier, secret, challenge);
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  if (a.size() != b.size()) return false;
  std::byte difference{0};
  for (std::size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == std::byte{0};
}

}  // namespace tidepool::scsi::iscsi
