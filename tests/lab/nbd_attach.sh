#!/bin/bash
# nbd-attach and nbd-detach on a kernel that has an NBD client: file systems on
# chains, raw disks and URIs, servers that are killed under load. The judges are
# checksums, e2fsck, fio's verification, and a writer that knows what was flushed.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

cowchain=$build/blockdev/tools/cowchain
nbd_attach=$build/blockdev/tools/nbd-attach
nbd_detach=$build/blockdev/tools/nbd-detach
plugin=$build/blockdev/nbdkit/nbdkit-cowchain-plugin.so
writer=$build/tests/integration/flush_writer
kills=${KILLS:-6}
# A killed server's unanswered requests are sent again after so many seconds. Long
# enough that a software-emulated processor always answers in time.
timeout=8
size=$((8 << 20))  # bytes of each of the writer's disks

modprobe fuse
begin
# A server that is asked to end waits for its connections: first take these away.
detach_all() {
  local status=$? entry
  for entry in $("$nbd_attach" --list 2>/dev/null | awk 'NR > 1 { print $1 }'); do
    "$nbd_detach" --force "$entry"
  done
  return "$status"
}
trap 'detach_all || clean_up; clean_up' EXIT
need nbdkit fio jq e2fsck fstrim setpriv
cd "$work"
mount_point=$work/fs

expect_error() {  # expect_error TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/error.log" 2>&1; then fail "'$*' succeeded"; fi
  grep -q -- "$text" "$work/error.log" || fail "'$*' says: $(cat "$work/error.log")"
}
attach_device() {  # attach_device TARGET [OPTION...]: sets $device
  device=$("$nbd_attach" --plugin "$plugin" "$@") || fail "nbd-attach $*"
  [[ -b $device ]] || fail "nbd-attach $* printed '$device'"
}
field() {  # field NAME: what --list says of $device
  "$nbd_attach" --list --json | jq -r --arg device "$device" ".[] | select(.device == \$device) | .$1"
}
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
fill() {  # fill DIRECTORY FILES: random files of 100 KB
  mkdir -p "$1"
  head -c $(($2 * 100000)) /dev/urandom | split --numeric-suffixes --bytes=100000 - "$1/f"
}
took() { say "$SECONDS s: $1"; }

took "what is missing is named"
"$cowchain" create disk.layer --size 160M
expect_error "modprobe nbd" "$nbd_attach" disk.layer
expect_error "modprobe nbd" "$nbd_detach" /dev/nbd0
modprobe nbd nbds_max=4
chmod 711 "$work"
expect_error "takes root" setpriv --reuid 65534 --regid 65534 --clear-groups "$nbd_attach" disk.layer
expect_error "takes root" setpriv --reuid 65534 --regid 65534 --clear-groups "$nbd_attach" --list
expect_error "is not attached" "$nbd_detach" /dev/nbd0

took "a file system on a chain, a checkpoint while it is mounted"
attach_device disk.layer
[[ $device == /dev/nbd0 ]] || fail "the kernel picked $device"
[[ $(blockdev --getsize64 "$device") -eq $((160 << 20)) ]] || fail "its size"
[[ $(field connections) -eq 4 && $(field kind) == chain && $(field state) == attached ]] ||
  fail "--list says $("$nbd_attach" --list --json)"
"$nbd_attach" --list | grep -qE "^$device +160 MiB +4 +[0-9]+ +attached +chain +$work/disk.layer$" ||
  fail "--list says: $("$nbd_attach" --list)"
truncate -s 1M other.img
expect_error "in use" "$nbd_attach" --plugin "$plugin" --device "$device" --raw other.img
rm other.img
mkfs.ext4 -q -b 4096 "$device"
mount_on "$mount_point" "$device"
fill "$mount_point/old" 60
sync
sums "$mount_point/old" >old.sums
"$cowchain" checkpoint disk.layer old
fill "$mount_point/new" 60
rm "$mount_point"/old/*5
sync
expect_error "is mounted on $mount_point" "$nbd_detach" "$device"

took "fstrim"
before=$(stat -c %b disk.layer)  # of 512 bytes
rm "$mount_point"/new/*[3-6]
sync  # until then the file system holds the blocks back
fstrim "$mount_point"
# 24 files of 100 KB; their ends may share blocks with what stays.
is_smaller() { [[ $(stat -c %b disk.layer) -le $((before - 24 * 80000 / 512)) ]]; }
wait_until 60 is_smaller || fail "the layer's file had $before sectors and still has $(stat -c %b disk.layer)"
say "fstrim: $(((before - $(stat -c %b disk.layer)) * 512)) bytes less in the layer's file"
sums "$mount_point" >now.sums
unmount_from "$mount_point"
"$nbd_detach" "$device"
[[ $("$nbd_attach" --list --json) == '[]' ]] || fail "it is still listed"
[[ -z $(pgrep nbdkit) ]] || fail "the server did not end"

took "attached again, by a name of our choice"
attach_device disk.layer --device /dev/nbd2 --connections 2 --block-size 4096
[[ $device == /dev/nbd2 && $(field connections) -eq 2 ]] || fail "not as asked"
[[ $(blockdev --getss "$device") -eq 4096 ]] || fail "its block size"
exec 7<"$device"
expect_error "is open in process" "$nbd_detach" "$device"
exec 7<&-
e2fsck -fn "$device" >fsck.log 2>&1 || fail "e2fsck: $(cat fsck.log)"
mount_on "$mount_point" -o ro "$device"
sums "$mount_point" | cmp - now.sums || fail "content after attaching again"
unmount_from "$mount_point"
"$nbd_detach" nbd2

took "the checkpoint, and a clone of it"
attach_device disk.layer.old
[[ $(blockdev --getro "$device") -eq 1 ]] || fail "a sealed layer can be written"
"$nbd_detach" "$device"
"$cowchain" create clone.layer --parent disk.layer.old
attach_device clone.layer
mount_on "$mount_point" "$device"  # with the journal's recovery
unmount_from "$mount_point"
"$nbd_detach" "$device"
attach_device clone.layer --read-only
[[ $(blockdev --getro "$device") -eq 1 && $(field read_only) == true ]] || fail "--read-only"
mount_on "$mount_point" -o ro "$device"
sums "$mount_point/old" | cmp - old.sums || fail "the clone's content"
[[ ! -e $mount_point/new ]] || fail "the clone shows what came later"
unmount_from "$mount_point"
"$nbd_detach" "$device"

took "kill -9 of the server under load, $kills times"
"$cowchain" create load.layer --size 256M
attach_device load.layer --timeout "$timeout"
mkfs.ext4 -q -b 4096 "$device"
mount_on "$mount_point" "$device"
mkdir "$work/logs" "$mount_point/vm"
"$writer" run "$mount_point/vm" "$work/logs" --size "$size" --threads 2 --seconds 600 \
  >writer.log 2>&1 &
writing=$!
fio --name=v --directory="$mount_point" --rw=randwrite --bs=4k --size=12m --fsync=64 --iodepth=8 \
  --ioengine=libaio --direct=1 --verify=xxhash --verify_fatal=1 --loops=1000 >fio.log 2>&1 &
verifying=$!
children=("$writing" "$verifying")
reconnected() { [[ $(field reconnects) -ge $1 && $(field state) == attached ]]; }
for ((kill = 1; kill <= kills; kill++)); do
  sleep "$((RANDOM % 3 + 1)).$((RANDOM % 10))"
  kill -9 "$(field server_pid)"
  wait_until 60 reconnected "$kill" || fail "not connected again: $(cat /run/nbd-attach/*/log)"
  kill -0 "$writing" || fail "the writer: $(cat writer.log)"
  kill -0 "$verifying" || fail "fio: $(cat fio.log)"
done
sleep $((timeout + 2))  # until the last kill's unanswered requests have been sent again
kill -INT "$verifying"
wait "$verifying" || [[ $? -eq 128 ]] || fail "fio: $(cat fio.log)"
! grep -qE 'err= *[1-9]|verify:' fio.log || fail "fio: $(cat fio.log)"
kill -9 "$writing"
wait "$writing" || true
children=()
grep -q writing writer.log || fail "the writer: $(cat writer.log)"
! dmesg | grep -E 'I/O error|EXT4-fs (error|warning)' || fail "the kernel saw errors"
operations=$(cat logs/w*.log | grep -c ^I) flushes=$(cat logs/w*.log | grep -c ^A)
[[ $flushes -ge $kills ]] || fail "too little was flushed for a test: $flushes times"
sync
unmount_from "$mount_point"
"$nbd_detach" "$device"
attach_device load.layer
e2fsck -fn "$device" >fsck.log 2>&1 || fail "e2fsck: $(cat fsck.log)"
mount_on "$mount_point" "$device"
"$writer" verify "$mount_point/vm" "$work/logs" --size "$size" --threads 2 >verify.log 2>&1 || fail "$(cat verify.log)"
say "$(tail -1 verify.log): $operations operations, $flushes flushes"
unmount_from "$mount_point"
"$nbd_detach" "$device"

took "an answered write that no flush covered, and kill -9"
# loses OFFSET BACK: writes there, kills $server at once, waits with the command BACK,
# flushes: is what was answered gone?
head -c 1M /dev/urandom >pattern
loses() {
  dd if=pattern of="$device" bs=64k count=1 seek="$1" oflag=direct,seek_bytes status=none || fail "the write"
  kill -9 "$server"
  "$2"
  sync -d "$device" || fail "the flush"
  dd if="$device" of=found bs=64k count=1 skip="$1" iflag=direct,skip_bytes status=none || fail "the read"
  ! cmp -s -n 65536 found pattern
}
attach_device load.layer --timeout "$timeout"
is_back() { wait_until 60 reconnected 1; }
server=$(field server_pid)
! loses $((200 << 20)) is_back || fail "it was lost"
"$nbd_detach" "$device"

took "the twin: a chain that does not write through loses it"
start_server() {
  rm -f "$work/socket"
  nbdkit --foreground --unix "$work/socket" "$@" 2>>server.log &
  server=$!
  children=("$server")
  wait_until 20 test -S "$work/socket" || fail "nbdkit: $(cat server.log)"
}
start_server "$plugin" load.layer
attach_device "nbd+unix:///?socket=$work/socket" --timeout "$timeout"
[[ $(field kind) == uri ]] || fail "--list says $("$nbd_attach" --list --json)"
start_again() {
  wait "$server" 2>/dev/null || true
  start_server "$plugin" load.layer
  wait_until 60 reconnected 1 || fail "not connected again"
}
loses $((201 << 20)) start_again || fail "nothing was lost: then the test above shows nothing"
"$nbd_detach" "$device"
kill "$server"
wait "$server" || true
children=()

took "--no-reconnect: the device fails, and says so"
attach_device load.layer --no-reconnect
mount_on "$mount_point" "$device"
kill -9 "$(field server_pid)"
has_failed() { [[ $(field state) == failed ]]; }
wait_until 20 has_failed || fail "state $(field state)"
! dd if=/dev/zero of="$mount_point/file" bs=1M count=1 conv=fsync status=none 2>/dev/null || fail "a write without a server"
umount "$mount_point"
mounts=()
is_unlisted() { [[ $("$nbd_attach" --list --json) == '[]' ]]; }
wait_until 20 is_unlisted || fail "$("$nbd_attach" --list)"

took "a raw disk"
truncate -s 32M raw.img
expect_error "give --raw" "$nbd_attach" raw.img
expect_error "leave --raw out" "$nbd_attach" --raw disk.layer
attach_device raw.img --raw --timeout "$timeout"
[[ $(field kind) == raw ]] || fail "--list says $("$nbd_attach" --list --json)"
expect_error "has locked it" "$nbd_attach" --raw raw.img
server=$(field server_pid)
! loses $((20 << 20)) is_back || fail "the page cache was lost"
dd if=pattern of="$device" bs=64k oflag=direct status=none
"$nbd_detach" "$device"
cmp -n $((1 << 20)) pattern raw.img || fail "the raw file's content"
truncate -s 1000 odd.img
expect_error "not a multiple" "$nbd_attach" --raw odd.img

took "URIs"
expect_error "cannot speak TLS" "$nbd_attach" nbds://localhost
expect_error "cannot connect" "$nbd_attach" nbd://localhost:9
start_server --filter=multi-conn memory size=16M multi-conn-mode=disable
attach_device "nbd+unix:///?socket=$work/socket"
[[ $(field connections) -eq 1 ]] || fail "several connections to a server that cannot"
kill -9 "$server"
wait "$server" || true
is_reconnecting() { [[ $(field state) == reconnecting ]]; }
wait_until 20 is_reconnecting || fail "state $(field state)"
expect_error "waits for its server" "$nbd_detach" "$device"
start_server memory size=8M
is_given_up() { is_unlisted || has_failed; }
wait_until 30 is_given_up || fail "another disk was taken: $("$nbd_attach" --list)"
kill "$server"
wait "$server" || true
children=()

took "--foreground, and SIGTERM"
"$nbd_attach" --plugin "$plugin" --foreground disk.layer >device 2>foreground.log &
supervisor=$!
children=("$supervisor")
wait_until 30 test -s device || fail "$(cat foreground.log)"
device=$(cat device)
mount_on "$mount_point" "$device"
kill "$supervisor"
says_mounted() { grep -q "not detached: $device is mounted on" foreground.log; }
wait_until 10 says_mounted || fail "SIGTERM while mounted: $(cat foreground.log)"
unmount_from "$mount_point"
kill "$supervisor"
wait "$supervisor" || fail "SIGTERM: $(cat foreground.log)"
children=()

took "a supervisor that was killed"
attach_device disk.layer
kill -9 "$(field pid)"
[[ $(field state) == unsupervised ]] || fail "state $(field state)"
"$nbd_detach" "$device"
no_server() { [[ -z $(pgrep nbdkit) ]]; }
wait_until 10 no_server || fail "its server stays"
is_unlisted || fail "$("$nbd_attach" --list)"
finish "passed in $SECONDS s"
