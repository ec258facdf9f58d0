#include "scsi/reservation_parameters.h"

#include <algorithm>

#include "scsi/big_endian.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t basic_list = 24;  // bytes
constexpr std::size_t least_transport_id = 24;
constexpr std::size_t most_ports = 64;  // that one request may register

using Bytes = std::span<const std::byte>;

const auto bad_length = std::unexpected(illegal_request(asc::parameter_list_length_error));

// The bytes that the TransportID at the beginning of `bytes` has; 0: none fits.
std::size_t transport_id_length(Bytes bytes) {
  if (bytes.size() < 4) return 0;
  // iSCSI's says its length itself; those of all other protocols have 24 bytes.
  const bool iscsi = (load_be8(&bytes[0]) & 0x0f) == 0x05;
  const std::size_t length = iscsi ? 4 + std::size_t{load_be16(&bytes[2])} : least_transport_id;
  return length <= bytes.size() && length % 4 == 0 ? length : 0;
}

PortId port_of(Bytes id) { return {reinterpret_cast<const char*>(id.data()), id.size()}; }

std::expected<std::vector<PortId>, Sense> parse_ports(Bytes bytes, std::uint16_t where) {
  std::vector<PortId> ports;
  while (!bytes.empty()) {
    const std::size_t length = transport_id_length(bytes);
    if (length == 0 || ports.size() == most_ports) return std::unexpected(invalid_parameter(where));
    ports.push_back(port_of(bytes.first(length)));
    bytes = bytes.subspan(length);
  }
  return ports;
}

std::expected<ReservationRequest, Sense> parse_move(ReservationRequest request, Bytes list) {
  request.unregister = (list[17] & std::byte{0x02}) != std::byte{0};
  request.through_power_loss = (list[17] & std::byte{0x01}) != std::byte{0};
  if (load_be32(&list[20]) != list.size() - basic_list) return bad_length;
  auto ports = parse_ports(list.subspan(basic_list), basic_list);
  if (!ports) return std::unexpected(ports.error());
  request.more_ports = std::move(*ports);
  return request;
}

}  // namespace

std::expected<ReservationRequest, Sense> parse_reservation_request(const Cdb& cdb, Bytes list) {
  ReservationRequest request;
  request.action = load_be8(&cdb[1]) & 0x1f;
  request.scope = load_be8(&cdb[2]) >> 4;
  request.type = load_be8(&cdb[2]) & 0x0f;
  if (list.size() < basic_list || list.size() != load_be32(&cdb[5])) return bad_length;
  request.key = load_be64(&list[0]);
  request.action_key = load_be64(&list[8]);
  if (request.action == 7) return parse_move(std::move(request), list);
  const auto flag = [&](unsigned bit) { return (load_be8(&list[20]) & bit) != 0; };
  request.through_power_loss = flag(0x01);
  request.all_target_ports = flag(0x04);
  if (!flag(0x08)) {  // SPEC_I_PT
    if (list.size() != basic_list) return bad_length;
    return request;
  }
  if (request.action != 0) return std::unexpected(invalid_parameter(20));
  if (list.size() < basic_list + 4 || load_be32(&list[basic_list]) != list.size() - basic_list - 4)
    return bad_length;
  auto ports = parse_ports(list.subspan(basic_list + 4), basic_list + 4);
  if (!ports) return std::unexpected(ports.error());
  request.more_ports = std::move(*ports);
  return request;
}

namespace {

std::vector<std::byte> with_header(const ReservationState& state) {
  std::vector<std::byte> out(8);
  store_be32(&out[0], state.generation);
  return out;
}

void close_header(std::vector<std::byte>& out) { store_be32(&out[4], out.size() - 8); }

}  // namespace

std::vector<std::byte> encode_keys(const ReservationState& state) {
  auto out = with_header(state);
  for (const Registrant& registrant : state.registrants) {
    out.resize(out.size() + 8);
    store_be64(&out[out.size() - 8], registrant.key);
  }
  close_header(out);
  return out;
}

std::vector<std::byte> encode_reservation(const ReservationState& state) {
  auto out = with_header(state);
  if (state.type != ReservationType::none) {
    out.resize(24);
    const auto holder = std::ranges::find(state.registrants, state.holder, &Registrant::port);
    store_be64(&out[8], holder != state.registrants.end() ? holder->key : 0);
    out[21] = static_cast<std::byte>(state.type);
  }
  close_header(out);
  return out;
}

std::vector<std::byte> encode_capabilities(const ReservationState& state, bool can_persist) {
  std::vector<std::byte> out(8);
  store_be16(&out[0], out.size());
  out[2] = std::byte{0x0c};                    // SIP_C, ATP_C
  if (can_persist) out[2] |= std::byte{0x01};  // PTPL_C
  out[3] = std::byte{0x80};                    // TMV
  if (state.through_power_loss) out[3] |= std::byte{0x01};
  out[4] = std::byte{0xea};  // all types but ...
  out[5] = std::byte{0x01};  // ... this one, which is here
  return out;
}

std::vector<std::byte> encode_full_status(const PersistentReservations& reservations,
                                          std::uint16_t relative_port) {
  const ReservationState& state = reservations.state();
  auto out = with_header(state);
  for (const Registrant& registrant : state.registrants) {
    std::vector<std::byte> entry(24);
    store_be64(&entry[0], registrant.key);
    if (registrant.all_target_ports) entry[12] |= std::byte{0x02};
    if (reservations.holds(registrant.port)) {
      entry[12] |= std::byte{0x01};
      entry[13] = static_cast<std::byte>(state.type);
    }
    store_be16(&entry[18], relative_port);
    store_be32(&entry[20], registrant.port.size());
    for (const char c : registrant.port) entry.push_back(static_cast<std::byte>(c));
    out.insert(out.end(), entry.begin(), entry.end());
  }
  close_header(out);
  return out;
}

}  // namespace tidepool::scsi
