#!/bin/bash
# nas-scsi behind QEMU's vhost-user-scsi front end, with Linux's own driver in the guest: a
# file system on one unit, libiscsi's conformance suite on another's /dev/sg. Here runs
# nas-scsi; in the machine, the second half of this script. Judges: the guest's kernel, e2fsck
# and debugfs on the disk's file, the suite's verdicts.
#
# GROUPS_OF_TESTS: patterns of names, all unless given. SECONDS_OF_GROUP: what one may take.
# TIMEOUT: seconds of the lab.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
build=${TIDEPOOL_BUILD:?names the build directory}
source "$here/../lib/iscsi_suite.sh"
source "$here/scsi_judge.sh"

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

inside() {
  modprobe -a virtio_scsi sd_mod sg ext4
  "$here/scsi_guest" "${SECONDS_OF_GROUP:-600}" "${GROUPS_OF_TESTS:-*}"
}

outside() {
  local status=0
  suite_needs iscsi-test-cu qemu-system-x86_64 sg_reset fio e2fsck debugfs
  work=$(mktemp -d "${TMPDIR:-/tmp}/tidepool-vhost-user-scsi.XXXXXX")
  clean_up() {
    stop_server || true
    rm -rf "$work"
  }
  trap clean_up EXIT
  trap 'exit 143' TERM
  truncate -s 96M "$work/files.img"
  truncate -s "$suite_bytes" "$work/suite.img"
  serve_vhost_user "$work/socket" "$work/files.img" "$work/suite.img" || fail "nas-scsi did not start"
  [[ $(stat -c %a "$work/socket") == 600 ]] || fail "others may connect"
  "$here/lab" --timeout "${TIMEOUT:-900}" --scsi "$work/socket" --set "GROUPS_OF_TESTS=${GROUPS_OF_TESTS:-*}" \
    --set "SECONDS_OF_GROUP=${SECONDS_OF_GROUP:-600}" "$0" | tee "$work/lab.log" || status=${PIPESTATUS[0]}
  [[ $status -eq 0 ]] || { cat "$work/server.log"; exit "$status"; }
  stop_server || fail "the server did not end well: $(cat "$work/server.log")"
  [[ ! -e $work/socket ]] || fail "the socket is left"
  judge_files "$work/files.img" "$work/lab.log" "$work"
  echo passed
}

if [[ ${TIDEPOOL_LAB:-} == yes ]]; then inside; else outside; fi
