#!/bin/bash
# nas-scsi behind QEMU's vhost-user-scsi front end, with Linux's own driver in the guest: a
# file system on one unit, libiscsi's conformance suite on another's /dev/sg. Here runs
# nas-scsi; in the machine, the second half of this script. Judges: the guest's kernel, e2fsck
# and debugfs on the disk's file, the suite's verdicts.
# SUITES: which suites of it, a pattern of their names. Tests that want an iSCSI session skip
# themselves.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
build=${TIDEPOOL_BUILD:?names the build directory}
source "$here/../lib/iscsi_suite.sh"

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

# unit_of NUMBER CLASS: the unit's name in /dev.
unit_of() {
  local found
  found=$(echo /sys/bus/scsi/devices/*:0:0:"$1"/"$2"/*)
  [[ -e $found ]] || return 1
  echo "/dev/${found##*/}"
}

# The kernel's LOGICAL UNIT RESET: what one suite made the unit remember of this initiator (the
# results of copies) is not the next one's, as by iSCSI, where each has a session of its own.
reset_unit() {
  python3 - "$1" <<'END'
import ctypes, os, sys
SG_SCSI_RESET, DEVICE = 0x2284, ctypes.c_int(1)
disk = os.open(sys.argv[1], os.O_RDWR)
if ctypes.CDLL(None, use_errno=True).ioctl(disk, SG_SCSI_RESET, ctypes.byref(DEVICE)) != 0:
    sys.exit('reset: ' + os.strerror(ctypes.get_errno()))
END
}

inside() {
  local work disk generic suite pattern result status=0
  work=$(mktemp -d)
  modprobe -a virtio_scsi sd_mod sg ext4
  for _ in {1..300}; do
    unit_of 0 block >/dev/null && unit_of 1 scsi_generic >/dev/null && break
    sleep 0.1
  done
  disk=$(unit_of 0 block) && generic=$(unit_of 1 scsi_generic) || fail "the guest finds no disks"
  [[ $(cat "/sys/block/${disk##*/}/device/vendor") == TIDEPOOL* ]] || fail "another's disk"
  mkfs.ext4 -q "$disk"
  mkdir "$work/fs"
  mount "$disk" "$work/fs"
  head -c 24M /dev/urandom >"$work/fs/kept"
  head -c 16M /dev/urandom >"$work/fs/gone"
  sync
  rm "$work/fs/gone"
  sync  # what is free only in memory is not trimmed
  fstrim "$work/fs"
  fio --name=verify --directory="$work/fs" --size=12M --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 \
    --direct=1 --verify=crc32c --verify_fatal=1 --loops=2 --minimal >"$work/fio" || fail "fio: $(cat "$work/fio")"
  echo 3 >/proc/sys/vm/drop_caches
  echo "kept: $(sha256sum <"$work/fs/kept")"
  umount "$work/fs"

  urls=("$generic")
  iscsi-test-cu --list | sed -n 's/^SCSI\.\([^.]*\)$/\1/p' >"$work/suites"
  # shellcheck disable=SC2053  # a pattern
  while read -r suite; do
    [[ $suite == ${SUITES:-*} ]] || continue
    pattern=SCSI.$suite
    # The tool itself dies in OverwriteReserved without an iSCSI session; Reset wants a disk that
    # takes long to overwrite.
    [[ $suite != Sanitize ]] || pattern='SCSI.Sanitize.[!OR]*,SCSI.Sanitize.Overwrite'
    reset_unit "$generic"
    result=0
    run_suite "$work/results" "$pattern" || result=$?
    cat "$work/results" >>"$work/all"
    echo "suite $suite: $(cut -f 2 "$work/results" | sort | uniq -c | tr -s ' \n' ' ')"
    [[ $result -ne 0 ]] || continue
    status=1
    echo "suite $suite: exit status $result"
    tail -25 "$work/out"
  done <"$work/suites"
  [[ -s $work/all ]] || fail "no test ran"
  awk -F '\t' '{ count[$2]++ } END { for (v in count) print count[v], v }' "$work/all"
  awk -F '\t' '$2 == "skipped" { print "skipped: " $1 ": " $3 }' "$work/all"
  [[ $status -eq 0 ]] && ! grep $'\tfailed\t' "$work/all"
}

outside() {
  local kept status=0
  suite_needs iscsi-test-cu qemu-system-x86_64 python3 fio e2fsck debugfs
  work=$(mktemp -d "${TMPDIR:-/tmp}/tidepool-vhost-user-scsi.XXXXXX")
  clean_up() {
    stop_server || true
    rm -rf "$work"
  }
  trap clean_up EXIT
  trap 'exit 143' TERM
  truncate -s 96M "$work/files.img"
  truncate -s 32M "$work/suite.img"
  "$build/scsi/tools/nas-scsi" --physical-block-size 512 --vhost-user "$work/socket" \
    "$work/files.img" "$work/suite.img" >"$work/urls" 2>"$work/server.log" &
  server=$!
  for _ in {1..300}; do
    [[ -s $work/urls ]] && break
    kill -0 "$server" 2>/dev/null || fail "nas-scsi: $(cat "$work/server.log")"
    sleep 0.1
  done
  [[ $(stat -c %a "$work/socket") == 600 ]] || fail "others may connect"
  "$here/lab" --timeout "${TIMEOUT:-900}" --scsi "$work/socket" --set "SUITES=${SUITES:-*}" "$0" |
    tee "$work/lab.log" || status=${PIPESTATUS[0]}
  [[ $status -eq 0 ]] || { cat "$work/server.log"; exit "$status"; }
  stop_server || fail "the server did not end well: $(cat "$work/server.log")"
  [[ ! -e $work/socket ]] || fail "the socket is left"
  e2fsck -fn "$work/files.img" >"$work/e2fsck" 2>&1 || fail "$(cat "$work/e2fsck")"
  debugfs -R "dump /kept $work/kept" "$work/files.img" 2>/dev/null
  kept=$(sha256sum <"$work/kept")
  grep -qx "kept: $kept" "$work/lab.log" || fail "the disk's file holds another file than the guest saw"
  # 16 MiB of it were given back.
  [[ $(stat -c %b "$work/files.img") -lt $((56 << 11)) ]] || fail "what was trimmed is still there"
  echo passed
}

if [[ ${TIDEPOOL_LAB:-} == yes ]]; then inside; else outside; fi
