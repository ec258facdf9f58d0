#!/bin/bash
# What nbd-attach and nbd-detach say without a kernel that can: wrong usage, targets
# that are refused, and what is missing. With one, tests/lab/nbd_attach.sh.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

begin
need jq nbdkit
cowchain=$build/blockdev/tools/cowchain
nbd_attach=$build/blockdev/tools/nbd-attach
nbd_detach=$build/blockdev/tools/nbd-detach
export NBD_ATTACH_RUN=$work/run
cd "$work"

expect() {  # expect STATUS TEXT COMMAND...
  local status=0 wanted=$1 text=$2
  shift 2
  "$@" >out.log 2>&1 || status=$?
  [[ $status -eq $wanted ]] || fail "'$*' ends with $status, not $wanted: $(cat out.log)"
  grep -qF -- "$text" out.log || fail "'$*' says: $(cat out.log)"
}

say "usage"
expect 0 "--connections" "$nbd_attach" --help
expect 0 "--force" "$nbd_detach" --help
expect 2 "what is to be attached?" "$nbd_attach"
expect 2 "not in range 1 to 64" "$nbd_attach" --connections 0 disk.layer
expect 2 "not in range" "$nbd_attach" --timeout 0 disk.layer
expect 2 "--block-size" "$nbd_attach" --block-size 4095 disk.layer
expect 2 "requires --list" "$nbd_attach" --json disk.layer
expect 2 "is not an NBD device" "$nbd_attach" --device /dev/sda disk.layer
expect 2 "is not an NBD device" "$nbd_detach" /dev/nbd
expect 2 "DEVICE is required" "$nbd_detach"

say "targets"
"$cowchain" create disk.layer --size 1M
truncate -s 1M raw.img
cp disk.layer damaged.layer
dd if=/dev/zero of=damaged.layer bs=1 seek=100 count=100 conv=notrunc status=none
dd if=/dev/zero of=damaged.layer bs=1 seek=4196 count=100 conv=notrunc status=none
expect 1 "No such file" "$nbd_attach" absent.layer
expect 1 "neither a file nor a disk" "$nbd_attach" --raw "$work"
expect 1 "give --raw" "$nbd_attach" raw.img
expect 1 "leave --raw out" "$nbd_attach" --raw disk.layer
expect 1 "damaged" "$nbd_attach" damaged.layer
expect 1 "leave --raw out" "$nbd_attach" --raw damaged.layer
expect 1 "cannot speak TLS" "$nbd_attach" nbds://localhost/disk
expect 1 "cannot speak TLS" "$nbd_attach" "nbds+unix:///?socket=$work/socket"
expect 1 "is not an NBD URI" "$nbd_attach" http://localhost/disk
expect 1 "--raw is for files" "$nbd_attach" --raw nbd://localhost

say "nothing is attached"
expect 0 "device" "$nbd_attach" --list
[[ $("$nbd_attach" --list --json) == '[]' ]] || fail "--list --json"
if [[ ! -e /sys/module/nbd ]]; then
  expect 1 "modprobe nbd" "$nbd_attach" disk.layer
  expect 1 "modprobe nbd" "$nbd_attach" --foreground --raw raw.img
  expect 1 "modprobe nbd" "$nbd_detach" /dev/nbd0
  [[ -z $(ls -A "$work/run" 2>/dev/null) ]] || fail "something is left: $(ls "$work/run")"
fi
finish
