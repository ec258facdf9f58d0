// A target under libFuzzer. The first argument that is no option is the corpus: it
// is made when it is missing, and the seeds are put into it.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    std::filesystem::path corpus = (*argv)[i];
    if (corpus.string().starts_with('-')) continue;
    if (std::filesystem::is_regular_file(corpus)) break;  // one input to be run again
    std::filesystem::create_directories(corpus);
    int number = 0;
    for (const auto& seed : tidepool::test::seeds()) {
      std::ofstream file(corpus / ("seed-" + std::to_string(number++)), std::ios::binary);
      file.write(reinterpret_cast<const char*>(seed.data()),
                 static_cast<std::streamsize>(seed.size()));
    }
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tidepool::test::run_one({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
