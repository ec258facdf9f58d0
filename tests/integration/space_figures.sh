#!/bin/bash
# Each VM is told the truth about space: statfs of its directory is the smaller of
# what its quota and what the pool leaves; a quota ends in ENOSPC and not before;
# a reservation is nobody else's; space of an open, unlinked disk stays until the
# last handle closes, and a rename takes the space along.
source "$(dirname "$0")/../lib/harness.sh"
stamp=$build/tests/integration/stamp

begin
need jq
create_pool 512M
mount_pool
block=4096 slack=$((4 << 20))
available() { echo $(($(stat -f -c '%a * %S' "$1"))); }
total() { echo $(($(stat -f -c '%b * %S' "$1"))); }
near() {  # near WHAT VALUE WANTED
  local off=$(($2 - $3))
  [[ ${off#-} -le $slack ]] || fail "$1: $2, must be about $3"
}

make_vm free
make_vm limited --quota 64M
near "total under a quota" "$(total "$mount/limited")" $((64 << 20))
near "available under a quota" "$(available "$mount/limited")" $((64 << 20))
near "available without" "$(available "$mount/free")" "$(figure available_bytes)"
near "the root's" "$(available "$mount")" "$(figure available_bytes)"

make_disk limited/disk.img 1G
status=0
"$stamp" write "$disk" --tag limited --piece 64K --direct >"$work/out" || status=$?
[[ $status -eq 3 ]] || fail "the quota must end in ENOSPC, not in status $status"
written=$(sed -n 's/^written \([0-9]*\).*/\1/p' "$work/out")
near "written under the quota" "$written" $((64 << 20))
[[ $written -le $((64 << 20)) ]] || fail "$written bytes are more than the quota"
near "available at the quota" "$(available "$mount/limited")" 0
"$stamp" write "$disk" --tag limited --generation 2 --length "$written" --piece 64K --direct >/dev/null
"$stamp" verify "$disk" --tag limited --generation 2 --length "$written"
near "du of the disk" "$(du -B1 "$disk" | cut -f1)" "$written"
[[ $(stat -c %s "$disk") -eq $((1 << 30)) ]] || fail "the disk's size changed"
"$elasticctl" vm set "$mount" limited --quota 128M >/dev/null
"$stamp" write "$disk" --tag limited --generation 2 --from 64M --length 32M --direct >/dev/null
fallocate --punch-hole --offset 0 --length 96M "$disk"
near "available after the punch" "$(available "$mount/limited")" $((128 << 20))

# A reservation: taken from what the others see, and kept.
before=$(available "$mount/free")
make_vm kept --reserve 100M
near "available to others" "$(available "$mount/free")" $((before - (100 << 20)))
make_disk free/fill.img 4G
status=0
"$stamp" write "$disk" --tag free --direct >"$work/out" || status=$?
[[ $status -eq 3 ]] || fail "filling must end in ENOSPC, not in status $status"
near "left to others" "$(available "$mount/free")" 0
near "left to the one that reserved" "$(available "$mount/kept")" $((100 << 20))
make_disk kept/disk.img 100M
"$stamp" write "$disk" --tag kept --length 99M --direct

# Unlinked but open: the space and the data stay until the last handle closes.
used=$(figure used_bytes)
exec 9<"$mount/free/fill.img"
rm "$mount/free/fill.img"
sleep 0.3
[[ $(figure used_bytes) -eq $used ]] || fail "an open disk's space was given back"
"$stamp" verify /proc/self/fd/9 --tag free --length 1M || fail "an unlinked disk lost its data"
exec 9<&-
freed() { [[ $(figure used_bytes) -le $((used - (200 << 20))) ]]; }
wait_until 10 freed || fail "the space of an unlinked disk did not come back"

# A disk moves to another VM, and its space with it.
make_disk free/move.img 64M
"$stamp" write "$disk" --tag move --direct >/dev/null
status=0
"$elasticctl" vm set "$mount" limited --quota 32M >/dev/null
mv "$disk" "$mount/limited/move.img" 2>"$work/err" || status=$?
[[ $status -ne 0 && -e $disk ]] || fail "a disk of 64 MiB went under a quota of 32 MiB"
"$elasticctl" vm set "$mount" limited --quota 128M >/dev/null
mv "$disk" "$mount/limited/move.img"
near "available after a disk came" "$(available "$mount/limited")" $((64 << 20))
"$stamp" verify "$mount/limited/move.img" --tag move

# Settings and figures survive a remount.
unmount_pool
check_clean
mount_pool
near "total after a remount" "$(total "$mount/limited")" $((128 << 20))
near "available after a remount" "$(available "$mount/limited")" $((64 << 20))
"$stamp" verify "$mount/limited/move.img" --tag move
"$stamp" verify "$mount/kept/disk.img" --tag kept --length 99M
rm -r "$mount"/*
empty() { [[ $(figure used_bytes) -eq 0 ]]; }
wait_until 10 empty || fail "$(figure used_bytes) bytes are held by nobody"
[[ $((block)) -eq $(figure block_bytes) ]] || fail "blocks are not of 4 KiB"
unmount_pool
check_clean
finish
