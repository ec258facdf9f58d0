#include "scsi/sense.h"

#include <limits>

#include "scsi/big_endian.h"

namespace tidepool::scsi {

namespace {

constexpr std::size_t fixed_size = 18;

// SENSE KEY SPECIFIC, three bytes; false where there is nothing to say.
bool put_key_specific(std::byte* to, const Sense& sense) {
  if (sense.progress) {
    to[0] = std::byte{0x80};
    store_be16(to + 1, *sense.progress);
    return true;
  }
  if (sense.field && sense.key == SenseKey::illegal_request) {
    const bool in_cdb = sense.code == asc::invalid_field_in_cdb;
    to[0] = in_cdb ? std::byte{0xc0} : std::byte{0x80};
    store_be16(to + 1, *sense.field);
    return true;
  }
  return false;
}

std::vector<std::byte> encode_fixed(const Sense& sense) {
  std::vector<std::byte> out(fixed_size);
  out[0] = std::byte{0x70};
  out[2] = static_cast<std::byte>(sense.key);
  // A field of 32 bits: what does not fit is not valid.
  if (sense.information && *sense.information <= std::numeric_limits<std::uint32_t>::max()) {
    out[0] |= std::byte{0x80};
    store_be32(&out[3], *sense.information);
  }
  out[7] = std::byte{fixed_size - 8};
  store_be16(&out[12], sense.code);
  put_key_specific(&out[15], sense);
  return out;
}

std::vector<std::byte> encode_descriptors(const Sense& sense) {
  std::vector<std::byte> out(8);
  out[0] = std::byte{0x72};
  out[1] = static_cast<std::byte>(sense.key);
  store_be16(&out[2], sense.code);
  if (sense.information) {
    std::byte descriptor[12]{std::byte{0x00}, std::byte{0x0a}, std::byte{0x80}};
    store_be64(&descriptor[4], *sense.information);
    out.insert(out.end(), std::begin(descriptor), std::end(descriptor));
  }
  std::byte descriptor[8]{std::byte{0x02}, std::byte{0x06}};
  if (put_key_specific(&descriptor[4], sense))
    out.insert(out.end(), std::begin(descriptor), std::end(descriptor));
  out[7] = static_cast<std::byte>(out.size() - 8);
  return out;
}

}  // namespace

std::vector<std::byte> encode_sense(const Sense& sense, bool descriptor_format) {
  return descriptor_format ? encode_descriptors(sense) : encode_fixed(sense);
}

}  // namespace tidepool::scsi
