#include "blockdev/attach/nbd_control.h"

#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>

#include <cerrno>
#include <charconv>
#include <fstream>

namespace tidepool::blockdev::attach {

namespace {

struct Free {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, Free>;

// What the kernel says of one request.
struct Answer {
  std::optional<std::uint32_t> index;
  std::vector<NbdControl::Device> devices;
  int error = 0;  // errno
  bool done = false;
};

Message request(int family, std::uint8_t command) {
  Message message(nlmsg_alloc_size(16384));
  if (!message || genlmsg_put(message.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command,
                              NBD_GENL_VERSION) == nullptr)
    return nullptr;
  return message;
}

// Attributes are put into a message that is large enough for more sockets than a
// process can have open by default, so a failure is not looked for one by one.
void put_sockets(nl_msg* message, std::span<const int> sockets) {
  nlattr* const list = nla_nest_start(message, NBD_ATTR_SOCKETS);
  for (const int fd : sockets) {
    nlattr* const item = nla_nest_start(message, NBD_SOCK_ITEM);
    nla_put_u32(message, NBD_SOCK_FD, static_cast<std::uint32_t>(fd));
    nla_nest_end(message, item);
  }
  nla_nest_end(message, list);
}

int on_valid(nl_msg* message, void* context) {
  auto& answer = *static_cast<Answer*>(context);
  auto* const header = static_cast<genlmsghdr*>(nlmsg_data(nlmsg_hdr(message)));
  std::array<nlattr*, NBD_ATTR_MAX + 1> attributes{};
  if (nla_parse(attributes.data(), NBD_ATTR_MAX, genlmsg_attrdata(header, 0),
                genlmsg_attrlen(header, 0), nullptr) < 0)
    return NL_SKIP;
  if (attributes[NBD_ATTR_INDEX] != nullptr)
    answer.index = nla_get_u32(attributes[NBD_ATTR_INDEX]);
  if (attributes[NBD_ATTR_DEVICE_LIST] == nullptr) return NL_OK;
  nlattr* item = nullptr;
  int left = 0;
  nla_for_each_nested(item, attributes[NBD_ATTR_DEVICE_LIST], left) {
    std::array<nlattr*, NBD_DEVICE_ATTR_MAX + 1> device{};
    if (nla_parse_nested(device.data(), NBD_DEVICE_ATTR_MAX, item, nullptr) < 0) continue;
    if (device[NBD_DEVICE_INDEX] == nullptr || device[NBD_DEVICE_CONNECTED] == nullptr) continue;
    answer.devices.push_back({.index = nla_get_u32(device[NBD_DEVICE_INDEX]),
                              .connected = nla_get_u8(device[NBD_DEVICE_CONNECTED]) != 0});
  }
  return NL_OK;
}

int on_acknowledged(nl_msg*, void* context) {
  static_cast<Answer*>(context)->done = true;
  return NL_STOP;
}

// libnl turns the errno into a code of its own, which says less.
int on_error(sockaddr_nl*, nlmsgerr* error, void* context) {
  auto& answer = *static_cast<Answer*>(context);
  answer.error = -error->error;
  answer.done = true;
  return NL_STOP;
}

// The errno of the kernel's refusal is Error::errno_value.
Result<Answer> ask(nl_sock* socket, const Message& message, const std::string& what) {
  if (!message) return fail(ErrorKind::io, "{}: no memory for the request", what);
  Answer answer;
  nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, on_valid, &answer);
  nl_socket_modify_cb(socket, NL_CB_ACK, NL_CB_CUSTOM, on_acknowledged, &answer);
  nl_socket_modify_err_cb(socket, NL_CB_CUSTOM, on_error, &answer);
  if (const int code = nl_send_auto(socket, message.get()); code < 0)
    return fail(ErrorKind::io, "{}: netlink: {}", what, nl_geterror(code));
  while (!answer.done) {
    if (const int code = nl_recvmsgs_default(socket); code < 0 && !answer.done)
      return fail(ErrorKind::io, "{}: netlink: {}", what, nl_geterror(code));
  }
  if (answer.error == EPERM)
    return fail(ErrorKind::permission, "{}: it takes root (CAP_SYS_ADMIN)", what);
  if (answer.error != 0) return fail_errno(answer.error, what);
  return answer;
}

}  // namespace

void NbdControl::Close::operator()(nl_sock* socket) const { nl_socket_free(socket); }

Result<NbdControl> NbdControl::open() {
  std::unique_ptr<nl_sock, Close> socket(nl_socket_alloc());
  if (!socket) return fail(ErrorKind::io, "no memory for a netlink socket");
  if (const int code = genl_connect(socket.get()); code < 0)
    return fail(ErrorKind::io, "cannot open a netlink socket: {}", nl_geterror(code));
  const int family = genl_ctrl_resolve(socket.get(), NBD_GENL_FAMILY_NAME);
  if (family < 0) {
    return fail(ErrorKind::unsupported,
                "the kernel's NBD client is not there: load its module with 'modprobe nbd'");
  }
  return NbdControl(std::move(socket), family);
}

Result<std::uint32_t> NbdControl::connect(const DeviceSettings& settings,
                                          std::span<const int> sockets) {
  const Message message = request(family_, NBD_CMD_CONNECT);
  if (message) {
    nl_msg* const m = message.get();
    if (settings.index) nla_put_u32(m, NBD_ATTR_INDEX, *settings.index);
    nla_put_u64(m, NBD_ATTR_SIZE_BYTES, settings.size);
    nla_put_u64(m, NBD_ATTR_BLOCK_SIZE_BYTES, settings.block_size);
    nla_put_u64(m, NBD_ATTR_SERVER_FLAGS, settings.server_flags);
    nla_put_u64(m, NBD_ATTR_TIMEOUT, settings.timeout);
    nla_put_u64(m, NBD_ATTR_DEAD_CONN_TIMEOUT, settings.dead_timeout);
    nla_put_string(m, NBD_ATTR_BACKEND_IDENTIFIER, settings.backend.c_str());
    put_sockets(m, sockets);
  }
  const std::string what =
      settings.index ? "cannot attach " + device_path(*settings.index) : "cannot attach a device";
  auto answer = ask(socket_.get(), message, what);
  if (!answer) {
    if (answer.error().kind == ErrorKind::busy)
      return fail(ErrorKind::busy, "{}: it is in use; take another, or let the kernel pick one",
                  what);
    return std::unexpected(answer.error());
  }
  if (!answer->index) return fail(ErrorKind::io, "{}: the kernel did not say which", what);
  return *answer->index;
}

Result<> NbdControl::replace(std::uint32_t index, const std::string& backend,
                             std::span<const int> sockets) {
  const Message message = request(family_, NBD_CMD_RECONFIGURE);
  if (message) {
    nla_put_u32(message.get(), NBD_ATTR_INDEX, index);
    nla_put_string(message.get(), NBD_ATTR_BACKEND_IDENTIFIER, backend.c_str());
    put_sockets(message.get(), sockets);
  }
  auto answer = ask(socket_.get(), message, "cannot reconnect " + device_path(index));
  if (!answer) return std::unexpected(answer.error());
  return {};
}

Result<> NbdControl::disconnect(std::uint32_t index) {
  const Message message = request(family_, NBD_CMD_DISCONNECT);
  if (message) nla_put_u32(message.get(), NBD_ATTR_INDEX, index);
  auto answer = ask(socket_.get(), message, "cannot detach " + device_path(index));
  if (!answer) return std::unexpected(answer.error());
  return {};
}

Result<std::vector<NbdControl::Device>> NbdControl::status() {
  auto answer = ask(socket_.get(), request(family_, NBD_CMD_STATUS), "cannot list the NBD devices");
  if (!answer) return std::unexpected(answer.error());
  return std::move(answer->devices);
}

std::string device_path(std::uint32_t index) { return fmt::format("/dev/nbd{}", index); }

Result<std::uint32_t> device_index(const std::string& device) {
  std::string_view name = device;
  if (name.starts_with("/dev/")) name.remove_prefix(5);
  std::uint32_t index = 0;
  if (name.starts_with("nbd")) {
    name.remove_prefix(3);
    const char* const end = name.data() + name.size();
    if (const auto parsed = std::from_chars(name.data(), end, index);
        parsed.ec == std::errc() && parsed.ptr == end)
      return index;
  }
  return fail(ErrorKind::invalid_argument, "'{}' is not an NBD device: wanted is /dev/nbdN", device);
}

std::string attached_backend(std::uint32_t index) {
  std::ifstream file(fmt::format("/sys/block/nbd{}/backend", index));
  std::string text;
  std::getline(file, text);
  return text;
}

}  // namespace tidepool::blockdev::attach
