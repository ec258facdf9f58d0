#!/bin/bash
# libiscsi's conformance suite against nas-scsi, over two portals; its own verdict counts.
# PATTERN: which tests; OPTIONS: more for nas-scsi, such as --removable; DISK: its disk, which is
# overwritten (a new file unless given).
# SANITIZE=reset: the one test that looks at a SANITIZE which is under way for five seconds and
# more, on a disk that is chosen to take three times as long. It sleeps for a minute then.
#
# Its blocks-per-physical-block cases contradict GetLBAStatus.UnmapSingle, so a physical block
# is a logical one unless OPTIONS have --physical-block-size.
set -euo pipefail
build=${TIDEPOOL_BUILD:?names the build directory}
source "$(dirname "$0")/../lib/iscsi_suite.sh"
suite_needs iscsi-test-cu
work=$(mktemp -d)
clean_up() {
  stop_server || true
  rm -rf "$work"
}
trap clean_up EXIT

size=$((32 << 20)) pattern=${PATTERN:-$all_but_reset}
if [[ ${SANITIZE:-} == reset ]]; then
  # How much is overwritten in a second, as SANITIZE does it.
  begun=${EPOCHREALTIME/./}
  dd if=/dev/zero of="$work/probe" bs=64k count=512 oflag=direct,dsync status=none ||
    { echo "skipped: no O_DIRECT in $work"; exit 77; }
  took=$((${EPOCHREALTIME/./} - begun))
  size=$((512 * 65536 * 15 * 1000000 / took / 4096 * 4096))
  [[ $(df --output=avail -B1 "$work" | tail -1) -gt $((size + (1 << 30))) ]] ||
    { echo "skipped: needs $((size >> 20)) MiB in $work"; exit 77; }
  pattern=ALL.Sanitize.Reset
  echo "a disk of $((size >> 20)) MiB"
fi
[[ -n ${DISK:-} ]] || truncate -s "$size" "${DISK:=$work/disk.img}"
options=${OPTIONS:-}
[[ $options == *--physical-block-size* ]] || options+=" --physical-block-size 512"
# shellcheck disable=SC2086  # they are words
serve_nas_scsi "$DISK" $options
status=0
run_suite "$work/results" "$pattern" || status=$?
grep -E '^ +(suites|tests|asserts) ' "$work/out" || { cat "$work/out" >&2; exit 1; }
awk -F '\t' '{ count[$2]++ } END { for (v in count) print count[v], v }' "$work/results"
awk -F '\t' '$2 == "skipped" { print "skipped: " $1 ": " $3 }' "$work/results"
[[ $status -eq 0 ]] && ! grep -q $'\tfailed\t' "$work/results" || {
  grep $'\tfailed\t' "$work/results" >&2
  grep -A6 'had failures' "$work/out" >&2
  exit 1
}
stop_server || { echo "the server did not end well" >&2; exit 1; }
