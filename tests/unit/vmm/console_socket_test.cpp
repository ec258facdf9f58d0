// The console's watchers and their socket.
#include "vmm/control/console_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>

namespace tidepool::vmm {
namespace {

using namespace std::chrono_literals;

std::pair<std::shared_ptr<const UniqueFd>, UniqueFd> connected() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {std::make_shared<const UniqueFd>(ends[0]), UniqueFd(ends[1])};
}

std::string read_some(const UniqueFd& end, std::size_t wanted) {
  std::string text;
  std::string part(64 * 1024, '\0');
  while (text.size() < wanted) {
    const ssize_t got = ::read(end.get(), part.data(), part.size());
    if (got <= 0) break;
    text.append(part, 0, static_cast<std::size_t>(got));
  }
  return text;
}

TEST(ConsoleWatchers, ShowANewcomerTheEndOfWhatWasPrinted) {
  ConsoleWatchers watchers;
  std::string all;
  for (int line = 0; line < 10'000; ++line) {
    const std::string text = "line " + std::to_string(line) + "\n";
    all += text;
    watchers.print(text);
  }
  auto [here, there] = connected();
  ASSERT_TRUE(watchers.add(here));
  watchers.print("more");
  const std::string seen = read_some(there, ConsoleWatchers::most_kept + 4);
  EXPECT_EQ(seen, all.substr(all.size() - ConsoleWatchers::most_kept) + "more");
}

TEST(ConsoleWatchers, CutOffWhoDoesNotRead) {
  ConsoleWatchers watchers;
  auto [slow, slow_end] = connected();
  auto [quick, quick_end] = connected();
  ASSERT_TRUE(watchers.add(slow));
  ASSERT_TRUE(watchers.add(quick));
  const std::string text(1000, 'x');
  for (int i = 0; i < 10'000; ++i) {  // the test would stand still here
    watchers.print(text);
    ASSERT_EQ(read_some(quick_end, text.size()), text);
  }
  EXPECT_LT(read_some(slow_end, 10'000'000).size(), 10'000'000U);  // and then its end
}

TEST(ConsoleWatchers, AreNotTooMany) {
  ConsoleWatchers watchers;
  std::vector<UniqueFd> ends;
  for (std::size_t i = 0; i <= ConsoleWatchers::most_watchers; ++i) {
    auto [here, there] = connected();
    EXPECT_EQ(watchers.add(here), i < ConsoleWatchers::most_watchers);
    ends.push_back(std::move(there));
  }
}

TEST(ConsoleSocket, CarriesBothWaysForSeveral) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("console-" + std::to_string(::getpid()))).string();
  ConsoleWatchers watchers;
  std::mutex mutex;
  std::string typed;
  auto console = ConsoleSocket::start(path, watchers,
                                      [&](std::string_view text) {
                                        const std::lock_guard lock(mutex);
                                        typed += text;
                                      },
                                      {});
  ASSERT_TRUE(console) << console.error().message;
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  watchers.print("before ");
  std::vector<UniqueFd> ends;
  for (int i = 0; i < 2; ++i) {
    sockaddr_un address{.sun_family = AF_UNIX};
    std::memcpy(address.sun_path, path.data(), path.size());
    ends.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(
        ::connect(ends.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
        0);
    EXPECT_EQ(read_some(ends.back(), 7), "before ");
  }
  watchers.print("after");
  for (const UniqueFd& end : ends) EXPECT_EQ(read_some(end, 5), "after");
  ASSERT_EQ(::send(ends[0].get(), "a", 1, 0), 1);
  ends[0].reset();
  ASSERT_EQ(::send(ends[1].get(), "b", 1, 0), 1);
  for (int i = 0; i < 20'000; ++i) {
    {
      const std::lock_guard lock(mutex);
      if (typed.size() == 2) break;
    }
    std::this_thread::sleep_for(1ms);
  }
  watchers.print("on");
  EXPECT_EQ(read_some(ends[1], 2), "on");
  console->reset();
  EXPECT_EQ(read_some(ends[1], 1), "");
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(typed == "ab" || typed == "ba") << typed;
}

}  // namespace
}  // namespace tidepool::vmm
