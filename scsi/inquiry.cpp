#include "scsi/inquiry.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "scsi/big_endian.h"

namespace tidepool::scsi {

namespace {

constexpr std::uint8_t direct_access = 0x00;

// Standards that are followed: SAM-5, SPC-4, SBC-3, iSCSI (no version claimed).
constexpr std::uint16_t version_descriptors[] = {0x00a0, 0x0460, 0x04c0, 0x0960};

void put_text(std::byte* to, std::size_t width, std::string_view text) {
  std::memset(to, ' ', width);
  std::memcpy(to, text.data(), std::min(width, text.size()));
}

using Page = std::vector<std::byte>;

Page page_with(std::uint8_t code, std::size_t length) {
  Page page(4 + length);
  page[0] = std::byte{direct_access};
  page[1] = std::byte{code};
  return page;
}

void append_text(Page& page, std::string_view text) {
  for (const char c : text) page.push_back(static_cast<std::byte>(c));
}

void append_designator(Page& page, std::uint8_t code_set, std::uint8_t type,
                       std::span<const std::byte> designator) {
  page.push_back(std::byte{code_set});
  page.push_back(std::byte{type});
  page.push_back(std::byte{0});
  page.push_back(static_cast<std::byte>(designator.size()));
  page.insert(page.end(), designator.begin(), designator.end());
}

Page serial_page(const Identity& identity) {
  Page page = page_with(0x80, 0);
  append_text(page, identity.serial);
  return page;
}

Page identification_page(const Identity& identity) {
  constexpr std::uint8_t binary = 1, ascii = 2, utf8 = 3, iscsi = 0x50;
  constexpr std::uint8_t vendor_type = 1, naa_type = 3, port_type = 4, name_type = 8;
  constexpr std::uint8_t of_port = 0x90, of_device = 0xa0;  // PIV and ASSOCIATION
  Page page = page_with(0x83, 0);
  append_designator(page, binary, naa_type, naa_designator(identity.uuid));
  Page vendor(8);
  put_text(vendor.data(), 8, identity.vendor);
  append_text(vendor, identity.serial);
  append_designator(page, ascii, vendor_type, vendor);
  if (identity.target_name.empty()) return page;
  Page port(4);
  store_be16(&port[2], identity.relative_port);
  append_designator(page, iscsi | binary, of_port | port_type, port);
  Page name;
  append_text(name, identity.target_name);
  name.resize((name.size() + 4) / 4 * 4);  // ends with at least one NUL, a multiple of four
  append_designator(page, iscsi | utf8, of_device | name_type, name);
  return page;
}

Page limits_page(const Limits& limits) {
  Page page = page_with(0xb0, 0x3c);
  page[4] = std::byte{1};  // WSNZ: a WRITE SAME of 0 blocks is refused
  page[5] = std::byte{limits.compare_and_write};
  store_be16(&page[6], std::uint64_t{1} << limits.physical_exponent);
  store_be32(&page[8], limits.transfer);
  store_be32(&page[12], limits.optimal_transfer);
  if (limits.thin) {
    store_be32(&page[20], 0xffffffff);
    store_be32(&page[24], limits.unmap_descriptors);
    store_be32(&page[28], limits.unmap_granularity);
    page[32] = std::byte{0x80};  // UGAVALID: aligned to block 0
  }
  store_be64(&page[36], limits.write_same);
  return page;
}

Page characteristics_page(const Limits& limits) {
  Page page = page_with(0xb1, 0x3c);
  store_be16(&page[4], 1);    // does not rotate
  if (limits.thin) page[7] = std::byte{0x40};  // WABEREQ: reads after a block erase succeed
  return page;
}

Page provisioning_page(const Limits& limits) {
  Page page = page_with(0xb2, 4);
  if (limits.thin) {
    // LBPU, LBPWS, LBPWS10, and LBPRZ: unmapped blocks read as zeros.
    page[5] = std::byte{0xe4};
    page[6] = std::byte{2};  // thin
  }
  return page;
}

void append_copy_descriptor(Page& page, std::uint16_t type, const Page& body) {
  Page descriptor(4);
  store_be16(&descriptor[0], type);
  descriptor.insert(descriptor.end(), body.begin(), body.end());
  descriptor.resize((descriptor.size() + 3) / 4 * 4);
  store_be16(&descriptor[2], descriptor.size() - 4);
  page.insert(page.end(), descriptor.begin(), descriptor.end());
}

Page third_party_copy_page() {
  const auto bytes = [](std::initializer_list<unsigned> values) {
    Page out;
    for (const unsigned v : values) out.push_back(static_cast<std::byte>(v));
    return out;
  };
  Page page = page_with(0x8f, 0);
  // Supported commands: operation code, number of service actions, these.
  append_copy_descriptor(page, 0x0001, bytes({7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03}));
  Page parameters(28);
  store_be16(&parameters[4], copy_target_descriptors);
  store_be16(&parameters[6], copy_segment_descriptors);
  store_be32(&parameters[8], copy_descriptor_bytes);
  append_copy_descriptor(page, 0x0004, parameters);
  append_copy_descriptor(page, 0x0008, bytes({2, copy_block_to_block, copy_target_identification}));
  return page;
}

}  // namespace

std::array<std::byte, 16> naa_designator(const Uuid& uuid) {
  std::array<std::byte, 16> out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte{uuid[i]};
  // NAA 3: locally assigned, 8 bytes would be the whole of it; NAA 6 has 16 bytes, whose
  // first 24 bits after the 6 name a company: the uuid's own random bits stand there.
  out[0] = (out[0] & std::byte{0x0f}) | std::byte{0x60};
  return out;
}

std::vector<std::byte> standard_inquiry(const Identity& identity) {
  Page data(96);
  data[0] = std::byte{direct_access};
  if (identity.removable) data[1] = std::byte{0x80};
  data[2] = std::byte{0x06};  // SPC-4
  data[3] = std::byte{0x12};  // HISUP, response data format 2
  data[4] = static_cast<std::byte>(data.size() - 5);
  data[5] = std::byte{0x08};  // 3PC: third-party copy
  data[6] = std::byte{0x10};  // MULTIP: several ports
  data[7] = std::byte{0x02};  // CMDQUE
  put_text(&data[8], 8, identity.vendor);
  put_text(&data[16], 16, identity.product);
  put_text(&data[32], 4, identity.revision);
  std::size_t at = 58;
  for (const std::uint16_t version : version_descriptors) {
    store_be16(&data[at], version);
    at += 2;
  }
  return data;
}

std::vector<std::byte> absent_inquiry() {
  Page data(36);
  data[0] = std::byte{0x7f};  // no device, and none can be there
  data[2] = std::byte{0x06};
  data[3] = std::byte{0x02};
  data[4] = static_cast<std::byte>(data.size() - 5);
  std::fill(data.begin() + 8, data.end(), std::byte{' '});
  return data;
}

std::optional<std::vector<std::byte>> vpd_page(std::uint8_t code, const Identity& identity,
                                               const Limits& limits) {
  Page page;
  switch (code) {
    case 0x00:
      page = page_with(0x00, 0);
      for (const unsigned known : {0x00, 0x80, 0x83, 0x8f, 0xb0, 0xb1, 0xb2})
        page.push_back(static_cast<std::byte>(known));
      break;
    case 0x80:
      page = serial_page(identity);
      break;
    case 0x83:
      page = identification_page(identity);
      break;
    case 0x8f:
      page = third_party_copy_page();
      break;
    case 0xb0:
      page = limits_page(limits);
      break;
    case 0xb1:
      page = characteristics_page(limits);
      break;
    case 0xb2:
      page = provisioning_page(limits);
      break;
    default:
      return std::nullopt;
  }
  store_be16(&page[2], page.size() - 4);
  return page;
}

}  // namespace tidepool::scsi
