#!/bin/bash
# No VM reads a byte of another. A fills the pool with its mark and frees it all; B
# then writes pieces of 512 bytes and 4 KiB all over its disks, and every byte B can
# read is looked through: its own pieces, and zeros. Again with the daemon killed
# while B writes, and with A still writing and freeing.
source "$(dirname "$0")/../lib/harness.sh"
stamp=$build/tests/integration/stamp
mib=${MIB:-512}

begin
need_space $((mib + 512))
choose_seed
create_pool "${mib}M"
mount_pool

fill_and_free() {  # A takes every free block and gives it back, by rm or by punching
  local status=0
  make_disk vmA/disk.img "$((mib * 2))M"
  "$stamp" write "$disk" --tag A --direct >/dev/null || status=$?
  [[ $status -eq 3 ]] || fail "A could not fill the pool (status $status)"
  if [[ $1 == punch ]]; then
    fallocate --punch-hole --offset 0 --length "$((mib * 2))M" "$disk"
  else
    rm "$disk"
  fi
}

judge() {  # judge FILE: not one word of A's
  "$stamp" scan "$1" --forbid A
}

for way in rm punch; do
  fill_and_free $way
  make_disk vmB/sectors.img "$((mib * 2))M"
  "$stamp" write "$disk" --tag B --piece 512 --step 37K --seed "$seed"
  judge "$disk"
  "$stamp" verify "$disk" --tag B --piece 512 --step 37K --gaps zero
  make_disk vmB/direct.img "$((mib * 2))M"
  "$stamp" write "$disk" --tag B --piece 512 --step 41K --seed "$seed" --direct
  judge "$disk"
  "$stamp" verify "$disk" --tag B --piece 512 --step 41K --gaps zero
  make_disk vmB/blocks.img "$((mib * 2))M"
  "$stamp" write "$disk" --tag B --piece 4K --step 69K --seed "$seed" --direct
  judge "$disk"
  "$stamp" verify "$disk" --tag B --piece 4K --step 69K --gaps zero
  # Room that was allocated and never written.
  make_disk vmB/allocated.img "$((mib / 8))M"
  fallocate --length "$((mib / 8))M" "$disk"
  judge "$disk"
  rm "$mount"/vmB/*.img "$mount"/vm*/disk.img 2>/dev/null || true
done

# The daemon dies while B writes on A's former blocks.
for round in 1 2 3 4 5; do
  fill_and_free "$([[ $((round % 2)) -eq 0 ]] && echo rm || echo punch)"
  make_disk "vmB/crash.img" "$((mib * 2))M"
  sync "$disk"
  "$stamp" write "$disk" --tag B --piece 512 --step 9K --seed $((seed + round)) --direct \
    >"$work/crash.log" 2>&1 &
  writer=$!
  sleep 0.$((RANDOM % 9))3
  kill_daemon
  wait "$writer" || true
  drop_dead_mount
  mount_pool
  if [[ -e $disk ]]; then
    judge "$disk"
    [[ ! -e $mount/vmA/disk.img ]] || "$stamp" scan "$mount/vmA/disk.img" --forbid B
  fi
  "$stamp" write "$disk" --tag B --piece 512 --step 57K --seed $((seed + round)) >/dev/null
  judge "$disk"
  rm -f "$mount"/vmA/*.img "$mount"/vmB/*.img
done

# A goes on writing and freeing while B takes the blocks.
make_disk vmA/churn.img "$((mib / 2))M"
churn=$disk
(
  while [[ ! -e $work/stop ]]; do
    "$stamp" write "$churn" --tag A --direct >/dev/null 2>&1 || true
    fallocate --punch-hole --offset 0 --length "$((mib / 2))M" "$churn"
  done
) &
children+=($!)
for round in 1 2 3 4; do
  make_disk "vmB/race.img" "$mib"M
  "$stamp" write "$disk" --tag B --piece 512 --step 33K --seed $((seed + round)) --direct >/dev/null
  judge "$disk"
  "$stamp" verify "$disk" --tag B --piece 512 --step 33K --gaps zero
  rm "$disk"
done
touch "$work/stop"
wait "${children[0]}" || true
children=()
unmount_pool
check_clean
finish
