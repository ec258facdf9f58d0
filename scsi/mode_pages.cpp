#include "scsi/mode_pages.h"

#include <algorithm>
#include <limits>

#include "scsi/big_endian.h"

namespace tidepool::scsi {

namespace {

constexpr std::uint8_t caching = 0x08, control = 0x0a, every = 0x3f;
constexpr std::uint8_t every_subpage = 0xff;
constexpr std::uint8_t known_pages[] = {caching, control};

constexpr std::byte wce{0x04}, swp{0x08}, d_sense{0x04};
constexpr std::byte wp{0x80}, dpofua{0x10};  // DEVICE-SPECIFIC PARAMETER

using Page = std::vector<std::byte>;

Page encode_page(std::uint8_t code, const ModeParameters& parameters) {
  if (code == caching) {
    Page page(20);
    page[0] = std::byte{caching};
    page[1] = std::byte{0x12};
    if (parameters.write_cache) page[2] |= wce;
    return page;
  }
  Page page(12);
  page[0] = std::byte{control};
  page[1] = std::byte{0x0a};
  if (parameters.descriptor_sense) page[2] |= d_sense;
  page[3] = std::byte{0x10};  // unrestricted reordering
  if (parameters.software_write_protect) page[4] |= swp;
  return page;
}

Page changeable_page(std::uint8_t code, const ModeContext& context) {
  Page page = encode_page(code, {});
  std::fill(page.begin() + 2, page.end(), std::byte{0});
  if (code == caching) {
    if (!context.shared) page[2] = wce;
  } else {
    page[2] = d_sense;
    if (!context.shared) page[4] = swp;
  }
  return page;
}

Page page_of(std::uint8_t code, std::uint8_t page_control, const ModeParameters& current,
             const ModeContext& context) {
  if (page_control == 1) return changeable_page(code, context);
  return encode_page(code, page_control == 2 ? default_mode(context) : current);
}

Page block_descriptor(const ModeSenseRequest& request, const ModeContext& context) {
  if (!request.descriptor) return {};
  if (request.long_lba) {
    Page out(16);
    store_be64(&out[0], context.blocks);
    store_be32(&out[12], context.block_size);
    return out;
  }
  Page out(8);
  store_be32(&out[0],
             std::min<std::uint64_t>(context.blocks, std::numeric_limits<std::uint32_t>::max()));
  store_be24(&out[5], context.block_size);
  return out;
}

void decode_page(std::uint8_t code, std::span<const std::byte> page, ModeParameters& into) {
  if (code == caching) {
    into.write_cache = (page[2] & wce) != std::byte{0};
  } else {
    into.descriptor_sense = (page[2] & d_sense) != std::byte{0};
    into.software_write_protect = (page[4] & swp) != std::byte{0};
  }
}

// The descriptor may repeat what is so, or say nothing of the number of blocks.
bool acceptable_descriptor(std::span<const std::byte> descriptor, const ModeContext& context) {
  if (descriptor.size() == 16) {
    const std::uint64_t blocks = load_be64(&descriptor[0]);
    return (blocks == 0 || blocks == context.blocks) &&
           load_be32(&descriptor[12]) == context.block_size;
  }
  const std::uint32_t blocks = load_be32(&descriptor[0]);
  return (blocks == 0 || blocks == context.blocks || blocks == 0xffffffff) &&
         load_be24(&descriptor[5]) == context.block_size;
}

}  // namespace

ModeParameters default_mode(const ModeContext& context) { return {.write_cache = !context.shared}; }

std::expected<std::vector<std::byte>, Sense> mode_sense(const ModeSenseRequest& request,
                                                        const ModeParameters& current,
                                                        const ModeContext& context) {
  if (request.control == 3) return std::unexpected(illegal_request(asc::saving_not_supported));
  const bool all = request.page == every;
  const bool subpage_known = request.subpage == 0 || (request.subpage == every_subpage);
  if (!subpage_known) return std::unexpected(invalid_cdb_field(3));
  if (!all && std::ranges::find(known_pages, request.page) == std::end(known_pages))
    return std::unexpected(invalid_cdb_field(2));

  const std::size_t header = request.ten ? 8 : 4;
  Page out(header);
  const Page descriptor = block_descriptor(request, context);
  out.insert(out.end(), descriptor.begin(), descriptor.end());
  for (const std::uint8_t code : known_pages) {
    if (!all && code != request.page) continue;
    const Page page = page_of(code, request.control, current, context);
    out.insert(out.end(), page.begin(), page.end());
  }
  const std::byte specific = dpofua | (context.write_protected ? wp : std::byte{0});
  if (request.ten) {
    store_be16(&out[0], out.size() - 2);
    out[3] = specific;
    if (request.long_lba) out[4] = std::byte{1};
    store_be16(&out[6], descriptor.size());
  } else {
    out[0] = static_cast<std::byte>(out.size() - 1);
    out[2] = specific;
    out[3] = static_cast<std::byte>(descriptor.size());
  }
  return out;
}

std::expected<ModeParameters, Sense> mode_select(std::span<const std::byte> list, bool ten,
                                                 const ModeParameters& current,
                                                 const ModeContext& context) {
  const auto too_short = std::unexpected(illegal_request(asc::parameter_list_length_error));
  ModeParameters changed = current;
  if (list.empty()) return changed;
  const std::size_t header = ten ? 8 : 4;
  if (list.size() < header) return too_short;
  const bool long_lba = ten && (list[4] & std::byte{1}) != std::byte{0};
  const std::size_t descriptor = ten ? load_be16(&list[6]) : load_be8(&list[3]);
  if (descriptor != 0 && descriptor != (long_lba ? 16u : 8u))
    return std::unexpected(invalid_parameter(ten ? 6 : 3));
  std::size_t at = header + descriptor;
  if (at > list.size()) return too_short;
  if (descriptor != 0 && !acceptable_descriptor(list.subspan(header, descriptor), context))
    return std::unexpected(invalid_parameter(static_cast<std::uint16_t>(header)));

  while (at < list.size()) {
    if (list.size() - at < 2) return too_short;
    const auto where = static_cast<std::uint16_t>(at);
    const std::uint8_t code = load_be8(&list[at]) & 0x7f;  // PS is the device's to set
    if (std::ranges::find(known_pages, code) == std::end(known_pages))
      return std::unexpected(invalid_parameter(where));
    const Page now = encode_page(code, changed), mask = changeable_page(code, context);
    if (list[at + 1] != now[1]) return std::unexpected(invalid_parameter(where + 1));
    if (list.size() - at < now.size()) return too_short;
    const auto page = list.subspan(at, now.size());
    for (std::size_t i = 2; i < now.size(); ++i)
      if (((page[i] ^ now[i]) & ~mask[i]) != std::byte{0})
        return std::unexpected(invalid_parameter(static_cast<std::uint16_t>(at + i)));
    decode_page(code, page, changed);
    at += now.size();
  }
  return changed;
}

}  // namespace tidepool::scsi
