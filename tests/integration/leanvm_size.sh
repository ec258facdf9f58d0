#!/bin/bash
# What ARCHITECTURE.md says of leanvm's size: lines of source, within 5 %, and the libraries
# that it is linked with, exactly.
set -euo pipefail
build=${TIDEPOOL_BUILD:?names the build directory}
cd "$(dirname "$0")/../.."
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
command -v readelf >/dev/null || { echo "skipped: readelf is not installed"; exit 77; }

stated=$(grep -A 4 '^Its size, in lines' ARCHITECTURE.md) || fail "ARCHITECTURE.md states no size"
for room in vmm virtio blockdev base scsi; do
  lines=$(find "$room" -name '*.h' -o -name '*.cpp' | xargs cat | wc -l)
  number=$(grep -oP "\`$room/\` \K[0-9,]+" <<<"$stated" | tr -d ,) || fail "no size of $room/"
  echo "$room/: $lines lines, stated are $number"
  [[ $((lines * 100)) -ge $((number * 95)) && $((lines * 100)) -le $((number * 105)) ]] ||
    fail "$room/ has $lines lines, ARCHITECTURE.md says $number"
done
# Without what every C++ program has, and what sanitizers add.
linked=$(readelf -d "$build/vmm/leanvm" | grep -oP 'NEEDED.*\[\K[a-z_-]+(?=[.-])' |
  grep -vE '^(libc|libm|libgcc_s|libstdc|ld-linux-x|libasan|libubsan|libtsan|ld-linux)$' | sort | xargs)
said=$(grep -oP '`\Klib[a-z_-]+(?=`)' <<<"$stated" | sort | xargs)
[[ $linked == "$said" ]] || fail "leanvm is linked with $linked, ARCHITECTURE.md says $said"
echo passed
