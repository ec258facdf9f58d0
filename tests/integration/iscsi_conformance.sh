#!/bin/bash
# libiscsi's conformance suite against nas-scsi, over two portals; its own verdict counts.
# FAMILY: what to run (ALL); OPTIONS: more for nas-scsi, such as --removable; DISK: its disk, which
# is overwritten (a new file unless given).
# Its blocks-per-physical-block cases contradict GetLBAStatus.UnmapSingle, so the unit says
# that a physical block is a logical one. SANITIZE is left out: it wants a unit that takes
# many seconds to overwrite.
set -euo pipefail
build=${TIDEPOOL_BUILD:?names the build directory}
command -v iscsi-test-cu >/dev/null || { echo "skipped: iscsi-test-cu is not installed"; exit 77; }
work=$(mktemp -d)
server=
clean_up() {
  [[ -z $server ]] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
  rm -rf "$work"
}
trap clean_up EXIT
[[ -n ${DISK:-} ]] || truncate -s 100M "${DISK:=$work/disk.img}"
# shellcheck disable=SC2086  # OPTIONS are words
"$build/scsi/tools/nas-scsi" --physical-block-size 512 --portal 127.0.0.1:0 --portal 127.0.0.1:0 \
  ${OPTIONS:-} "$DISK" >"$work/urls" 2>"$work/log" &
server=$!
for ((i = 0; i < 200; i++)); do
  [[ $(wc -l <"$work/urls") -ge 2 ]] && break
  kill -0 "$server" || { cat "$work/log" >&2; exit 1; }
  sleep 0.1
done
mapfile -t urls <"$work/urls"
status=0
iscsi-test-cu --dataloss --fail -v -t "${FAMILY:-ALL}" "${urls[@]}" >"$work/out" 2>&1 || status=$?
grep -E '^ +(suites|tests|asserts) ' "$work/out" || { cat "$work/out" >&2; exit 1; }
echo "skips, by reason:"
grep -oE '\[SKIPPED\].*' "$work/out" | sort | uniq -c || true
failed=$(awk '$1 == "tests" { print $5 }' "$work/out")
[[ $failed == 0 && $status -eq 0 ]] || { grep -A6 'had failures' "$work/out" >&2; exit 1; }
kill "$server" && wait "$server" || { echo "the server did not end well" >&2; exit 1; }
server=
