#!/bin/bash
# Space comes back. After random punches of 4 KiB to 1 MiB on several disks, and
# after each of 10 rounds of write, delete and fstrim on ext4, the pool's use and
# the host's blocks are those of the live data: within 1 % and a chunk per disk,
# within 5 seconds, without drift.
source "$(dirname "$0")/../lib/harness.sh"
stamp=$build/tests/integration/stamp
rounds=${ROUNDS:-10}

begin
need jq fstrim mkfs.ext4 dumpe2fs
need_space 2500
choose_seed
create_pool 2G
mount_pool
chunk=$(figure chunk_bytes) metadata=$(figure metadata_bytes)

# near LIVE DISKS: both figures agree with the live bytes.
near() {
  local live=$1 slack=$(($1 / 100 + $2 * chunk))
  used=$(figure used_bytes) host=$(host_bytes)
  [[ $used -ge $((live - slack)) && $used -le $((live + slack)) &&
    $host -ge $((live - slack)) && $host -le $((live + slack + metadata)) ]]
}
expect_near() {  # expect_near LIVE DISKS WHAT
  wait_until 5 near "$1" "$2" ||
    fail "$3: live $1, the pool uses $used, the host holds $host (metadata $metadata)"
  say "$3: live $1, the pool uses $used, the host holds $host"
}

disks=4 live=0
for ((i = 0; i < disks; i++)); do
  make_disk "vm$i/disk.img" 256M
  "$stamp" write "$disk" --tag "disk$i" --direct >/dev/null
done
expect_near $((disks << 28)) $disks "written"
for ((i = 0; i < disks; i++)); do
  kept=$("$stamp" punch "$mount/vm$i/disk.img" --tag "disk$i" --count 600 --piece 1M \
    --seed $((seed + i)))
  live=$((live + ${kept#live }))
done
expect_near "$live" $disks "punched"
# Small holes alone, until little is left.
live=0
for ((i = 0; i < disks; i++)); do
  "$stamp" write "$mount/vm$i/disk.img" --tag "disk$i" --direct >/dev/null
  kept=$("$stamp" punch "$mount/vm$i/disk.img" --tag "disk$i" --count 40000 --piece 16K \
    --seed $((seed + 100 + i)))
  live=$((live + ${kept#live }))
done
expect_near "$live" $disks "punched finely"
for ((i = 0; i < disks; i++)); do rm "$mount/vm$i/disk.img"; done
expect_near 0 $disks "deleted"

make_disk vmx/ext4.img 1G
attach "$disk"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop"
mount_on "$work/fs" "$loop"
first=
for ((round = 1; round <= rounds; round++)); do
  for ((n = 0; n < 24; n++)); do
    head -c $(((RANDOM % 16 + 1) << 20)) /dev/urandom >"$work/fs/file$n"
  done
  sync -f "$work/fs"
  for ((n = 0; n < 24; n++)); do [[ $((n % 6)) -eq $((round % 6)) ]] || rm "$work/fs/file$n"; done
  sync -f "$work/fs"
  fstrim "$work/fs"
  # What the file system itself counts as taken.
  live=$(df -B1 --output=used "$work/fs" | tail -1)
  rm "$work"/fs/file*
  sync -f "$work/fs"
  fstrim "$work/fs"
  # ext4 empties itself to the same blocks every time: no drift.
  [[ -n $first ]] || { sleep 1; first=$(figure used_bytes); }
  back() { used=$(figure used_bytes); [[ $((used - first)) -le $((first / 100 + chunk)) ]]; }
  wait_until 5 back || fail "round $round: $used bytes in use, after the first round $first"
  say "round $round: $((live >> 20)) MiB live, then $used bytes when empty"
done
blocks() { dumpe2fs -h "$loop" 2>/dev/null | sed -n "s/^$1: *//p"; }
unmount_from "$work/fs"
live=$((($(blocks "Block count") - $(blocks "Free blocks")) * 4096))
used=$(figure used_bytes)
# mkfs leaves blocks it counts as taken unwritten, so only more is wrong.
[[ $used -le $((live + live / 100 + chunk)) ]] || fail "$used bytes in use for $live of ext4's own"
detach "$loop"
rm "$disk"
expect_near 0 1 "deleted"

# How long the caller waits for a discard of 1 GiB (told, not judged: see bench).
make_disk vmx/big.img 1G
"$stamp" write "$disk" --tag big --direct >/dev/null
begin_ns=$(date +%s%N)
fallocate --punch-hole --offset 0 --length 1G "$disk"
say "discard of 1 GiB: $((($(date +%s%N) - begin_ns) / 1000000)) ms, with the process's start"
expect_near 0 1 "discarded"
unmount_pool
check_clean
finish
