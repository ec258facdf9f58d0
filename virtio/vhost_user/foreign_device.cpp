#include "virtio/vhost_user/foreign_device.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>
#include <utility>

#include "base/byte_order.h"
#include "base/log.h"
#include "base/quiet_thread.h"
#include "virtio/config_space.h"

namespace tidepool::virtio::vhost_user {

namespace {

constexpr std::uint64_t wanted_protocol =
    protocol_queues | protocol_answers | protocol_config | protocol_inflight;
constexpr int retry_interval = 100;  // milliseconds
constexpr std::size_t range_header = 12;

void drain(int eventfd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(eventfd, &count, sizeof count);
}
void raise(int eventfd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd, &one, sizeof one);
}

}  // namespace

ForeignDevice::ForeignDevice(std::string socket, ForeignOptions options)
    : socket_(std::move(socket)), name_("vhost-user " + socket_), options_(std::move(options)) {}

Result<std::unique_ptr<ForeignDevice>> ForeignDevice::create(const std::string& socket,
                                                             ForeignOptions options) {
  std::unique_ptr<ForeignDevice> device(new ForeignDevice(socket, std::move(options)));
  auto front = device->find_back_end();
  if (!front) return std::unexpected(front.error());
  std::uint64_t queues = device->options_.queues;
  if ((*front)->has(protocol_queues)) {
    const auto most = (*front)->get(Request::get_queue_count);
    if (!most) return std::unexpected(most.error());
    // Some count pairs: of those one is always there.
    if (!device->options_.whole_pairs || *most == 0) queues = std::min(queues, *most);
  } else if (!device->options_.whole_pairs) {
    queues = 1;
  }
  if (queues == 0) return fail(ErrorKind::unsupported, "{}: has no queues", device->name_);
  device->features_ =
      ((*front)->features() & device->options_.features) | device->options_.own_features;
  auto config = device->ask_config(**front);
  if (!config) return std::unexpected(config.error());
  device->config_ = std::move(*config);
  if (const auto at = device->options_.queue_count_at) {
    store_le16(&device->config_[*at], static_cast<std::uint16_t>(queues));
  }
  for (std::uint64_t i = 0; i < queues; ++i) {
    device->calls_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!device->calls_.back()) return fail_errno(errno, "cannot create an eventfd");
  }
  device->wakeup_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!device->wakeup_) return fail_errno(errno, "cannot create an eventfd");
  device->positions_.resize(queues);
  device->bases_.resize(queues);
  device->front_ = std::move(*front);
  device->thread_ = start_quiet_thread("vhost-user", [device = device.get()] { device->watch(); });
  return device;
}

ForeignDevice::~ForeignDevice() {
  stopping_ = true;
  wake();
  if (thread_.joinable()) thread_.join();
}

void ForeignDevice::on_each_thread(const std::function<void()>& task) {
  std::promise<void> done;
  {
    const std::lock_guard lock(mutex_);
    task_ = [&] {
      task();
      done.set_value();
    };
  }
  wake();
  done.get_future().wait();
}

void ForeignDevice::wake() {
  if (wakeup_) raise(wakeup_.get());
}

Result<std::unique_ptr<FrontEnd>> ForeignDevice::find_back_end() const {
  auto front = FrontEnd::connect(socket_, wanted_protocol, options_.patience);
  if (!front) return front;
  if (options_.config_bytes != 0 && !(*front)->has(protocol_config)) {
    return fail(ErrorKind::unsupported, "{}: does not tell its configuration", name_);
  }
  return front;
}

Result<std::vector<std::byte>> ForeignDevice::ask_config(FrontEnd& front) const {
  if (options_.config_bytes == 0) return options_.config;
  auto answer = front.ask(Request::get_config, encode_config_range({0, options_.config_bytes}));
  if (!answer) return std::unexpected(answer.error());
  const auto range = parse_config_range(*answer);
  if (!range || range->length != options_.config_bytes) {
    return fail(ErrorKind::io, "{}: its configuration is not what was asked for", name_);
  }
  return std::vector<std::byte>(answer->begin() + range_header, answer->end());
}

std::vector<std::uint16_t> ForeignDevice::queue_sizes() const {
  return std::vector<std::uint16_t>(calls_.size(), queue_entries);
}

void ForeignDevice::read_config(std::uint64_t offset, std::span<std::byte> out) const {
  copy_config(config_, offset, out);
}

// --- the device's life: the transport's thread ---

Result<> ForeignDevice::start(DeviceStart start) {
  const std::lock_guard lock(mutex_);
  start.queues.resize(calls_.size());
  start_ = std::move(start);
  inflight_.reset();
  inflight_file_.reset();
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (start_->queues[i]) positions_[i] = start_->queues[i]->position;
    bases_[i] = positions_[i].next_available;
  }
  going_ = true;
  served_ = false;
  if (!front_) return {};  // one that comes back finds the device started
  auto done = set_up();
  if (done) return {};
  going_ = false;
  start_.reset();
  lose(done.error().message);  // who knows what it was told
  return done;
}

void ForeignDevice::quiesce() {
  const std::lock_guard lock(mutex_);
  if (!going_) return;
  going_ = false;
  stop_queues();
}

void ForeignDevice::resume() {
  const std::lock_guard lock(mutex_);
  if (!start_ || going_) return;
  going_ = true;
  if (front_) {
    if (auto done = set_up(); !done) lose(done.error().message);
  }
  wake();
}

void ForeignDevice::reset() {
  std::unique_lock lock(mutex_);
  told_.wait(lock, [this] { return !telling_; });
  if (going_) stop_queues();
  going_ = false;
  start_.reset();
  inflight_.reset();
  inflight_file_.reset();
}

// A back end says how far it is, and may finish what it has taken a moment later.
void ForeignDevice::stop_queues() {
  const auto end = std::chrono::steady_clock::now() + options_.patience;
  for (std::uint32_t i = 0; i < calls_.size(); ++i) {
    const auto& queue = start_->queues[i];
    if (!queue) continue;
    std::optional<VringState> state;
    if (front_) {
      std::vector<std::byte> ask(8);
      store_le32(ask.data(), i);
      auto answer = front_->ask(Request::get_vring_base, ask);
      if (answer) state = parse_vring_state(*answer);
      if (!state) lose(answer ? "it does not say how far it is" : answer.error().message);
    }
    // A back end that has died wrote down what it did: a new one goes on from there.
    bases_[i] = state ? static_cast<std::uint16_t>(state->value) : used_index(*queue);
    while (front_ && used_index(*queue) != bases_[i]) {
      if (std::chrono::steady_clock::now() > end) lose("it does not finish what it has taken");
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    positions_[i] = {bases_[i], used_index(*queue)};
  }
}

// --- what a back end is told ---

Result<> ForeignDevice::set_up() {
  auto done = front_->set(Request::set_features,
                          (start_->features & ~options_.own_features) | feature_protocol);
  if (done) done = share_inflight();
  if (done) done = share_memory();
  for (std::uint32_t i = 0; done && i < calls_.size(); ++i) {
    if (start_->queues[i]) done = start_queue(i);
  }
  served_ = served_ || done.has_value();
  return done;
}

Result<> ForeignDevice::share_memory() {
  std::vector<MemoryRegion> regions;
  std::vector<int> files;
  for (const GuestRegion& region : memory_->regions()) {
    if (region.file < 0) {
      return fail(ErrorKind::unsupported, "{}: guest memory that is no memory file", name_);
    }
    regions.push_back({region.guest, region.length, reinterpret_cast<std::uintptr_t>(region.host),
                       region.file_offset});
    files.push_back(region.file);
  }
  return front_->set(Request::set_memory_table, encode_memory_table(regions), files);
}

Result<> ForeignDevice::share_inflight() {
  if (!front_->has(protocol_inflight)) return {};
  if (!inflight_) {
    const auto queues = static_cast<std::uint16_t>(calls_.size());
    std::vector<UniqueFd> files;
    auto answer =
        front_->ask(Request::get_inflight, encode_inflight({0, 0, queues, queue_entries}), &files);
    if (!answer) return std::unexpected(answer.error());
    inflight_ = parse_inflight(*answer);
    if (!inflight_ || files.size() != 1) {
      inflight_.reset();
      return fail(ErrorKind::io, "{}: no region for what is in flight", name_);
    }
    inflight_file_ = std::move(files.front());
    inflight_->queues = queues;
    inflight_->queue_size = queue_entries;
  }
  const int file = inflight_file_.get();
  return front_->set(Request::set_inflight, encode_inflight(*inflight_), {&file, 1});
}

Result<> ForeignDevice::start_queue(std::uint32_t index) {
  const QueueStart& queue = *start_->queues[index];
  const auto descriptors = host_address(queue.layout.descriptors),
             used = host_address(queue.layout.used),
             available = host_address(queue.layout.available);
  if (!descriptors || !used || !available) {
    return fail(ErrorKind::invalid_argument, "{}: a queue that is not in guest memory", name_);
  }
  auto done = front_->set_vring(Request::set_vring_size, index, queue.layout.size);
  if (done) done = front_->set_vring(Request::set_vring_base, index, bases_[index]);
  if (done) {
    done = front_->set(Request::set_vring_addresses,
                       encode_vring_addresses({index, *descriptors, *used, *available}));
  }
  const int call = calls_[index].get();
  if (done) done = front_->set(Request::set_vring_call, index, {&call, 1});
  if (done) done = front_->set(Request::set_vring_kick, index, {&queue.kick, 1});
  if (done) done = front_->set_vring(Request::set_vring_enable, index, 1);
  if (!done) return done;
  // What came while nobody served the queue, and what nobody told the driver of.
  raise(queue.kick);
  raise(call);
  return {};
}

std::optional<std::uint64_t> ForeignDevice::host_address(std::uint64_t guest) const {
  const std::byte* const host = memory_->at(guest, 1);
  if (host == nullptr) return std::nullopt;
  return reinterpret_cast<std::uintptr_t>(host);
}

std::uint16_t ForeignDevice::used_index(const QueueStart& queue) const {
  constexpr std::uint64_t index_offset = 2;
  const std::byte* const index = memory_->at(queue.layout.used + index_offset, 2);
  return index == nullptr ? std::uint16_t{0} : load_le16(index);
}

// --- a back end that goes and comes back ---

void ForeignDevice::lose(const std::string& why) {
  log().warn("{}: {}; another one is waited for", name_, why);
  front_.reset();
  wake();
}

std::function<void()> ForeignDevice::try_again(std::unique_ptr<FrontEnd> front,
                                               std::vector<std::byte> config) {
  if (const auto at = options_.queue_count_at) std::copy_n(&config_[*at], 2, &config[*at]);
  const bool same =
      config == config_ && (features_ & ~options_.own_features & ~front->features()) == 0;
  const bool noted = inflight_ && front->has(protocol_inflight);
  if (start_ && (!same || (served_ && !noted))) {
    const char* const why = same ? "a back end that keeps no notes of what it has taken went away"
                                 : "another device is behind the socket now";
    log().error("{}: {}", name_, why);
    auto broken = std::move(start_->broken);
    start_.reset();
    going_ = false;
    if (!broken) return {};
    return [broken = std::move(broken), why] { broken(why); };
  }
  if (!same) return {};
  front_ = std::move(front);
  if (start_ && served_) {
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if (start_->queues[i]) bases_[i] = used_index(*start_->queues[i]);
    }
  }
  if (!going_) return {};
  if (auto done = set_up(); !done) {
    lose(done.error().message);
  } else {
    log().info("{}: a back end is there again", name_);
  }
  return {};
}

void ForeignDevice::watch() {
  std::vector<pollfd> events;
  while (!stopping_) {
    events.assign(1, {wakeup_.get(), POLLIN, 0});
    for (const UniqueFd& call : calls_) events.push_back({call.get(), POLLIN, 0});
    bool lost = false;
    {
      const std::lock_guard lock(mutex_);
      lost = !front_;
      if (front_) events.push_back({front_->descriptor(), POLLRDHUP, 0});
    }
    if (::poll(events.data(), events.size(), lost ? retry_interval : -1) < 0) continue;
    std::unique_lock lock(mutex_);
    if (events[0].revents != 0) drain(wakeup_.get());
    if (task_) std::exchange(task_, nullptr)();
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      if (events[i + 1].revents == 0) continue;
      drain(calls_[i].get());
      if (start_ && start_->queues[i]) start_->queues[i]->interrupt->signal();
    }
    const bool hung_up = !lost && events.back().revents != 0;
    if (hung_up && front_ && front_->descriptor() == events.back().fd) {
      lose("the back end has gone");
    }
    if (!lost || front_ || stopping_) continue;
    lock.unlock();  // whoever is behind the socket may keep us waiting
    auto front = find_back_end();
    if (!front) continue;
    auto config = ask_config(**front);
    if (!config) continue;
    lock.lock();
    if (front_ || stopping_) continue;
    const auto tell = try_again(std::move(*front), std::move(*config));
    if (!tell) continue;
    telling_ = true;
    lock.unlock();
    tell();
    lock.lock();
    telling_ = false;
    told_.notify_all();
  }
}

}  // namespace tidepool::virtio::vhost_user
