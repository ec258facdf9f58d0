#!/bin/bash
# Eight writers at once, each with every eighth sector of the same blocks of 4 KiB:
# no one's sector is lost to a neighbour's, on fresh, mapped and
# punched blocks, while another disk comes and goes.
source "$(dirname "$0")/../lib/harness.sh"
stamp=$build/tests/integration/stamp
mib=${MIB:-16}

begin
choose_seed
create_pool 512M
mount_pool
make_disk vm1/disk.img "${mib}M"

write_all() {  # write_all GENERATION SEED [OPTION...]
  local generation=$1 order=$2 i pid pids=()
  shift 2
  for i in 0 1 2 3 4 5 6 7; do
    # The same order for all: they meet in the same blocks.
    "$stamp" write "$disk" --tag shared --generation "$generation" --from $((i * 512)) \
      --length $(((mib << 20) - i * 512)) --piece 512 --step 4K --seed "$order" "$@" >/dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || fail "a writer failed"; done
}

write_all 1 "$seed" --direct
"$stamp" verify "$disk" --tag shared --generation 1
write_all 2 $((seed + 1)) --direct
"$stamp" verify "$disk" --tag shared --generation 2
fallocate --punch-hole --offset 0 --length "${mib}M" "$disk"
write_all 3 $((seed + 2)) --direct
"$stamp" verify "$disk" --tag shared --generation 3
write_all 4 $((seed + 3))
"$stamp" verify "$disk" --tag shared --generation 4

# Another disk is made, filled and removed all the while: blocks change owners.
(
  while [[ ! -e $work/stop ]]; do
    truncate -s 64M "$mount/vm1/other.img"
    "$stamp" write "$mount/vm1/other.img" --tag other --direct >/dev/null || exit 1
    rm "$mount/vm1/other.img"
  done
) &
children+=($!)
for round in 5 6 7 8; do
  fallocate --punch-hole --offset 0 --length "${mib}M" "$disk"
  write_all $round $((seed + round)) --direct
  "$stamp" verify "$disk" --tag shared --generation $round
done
touch "$work/stop"
wait "${children[0]}" || fail "the other disk could not be written"
children=()
unmount_pool
check_clean
mount_pool
"$stamp" verify "$disk" --tag shared --generation 8
unmount_pool
finish
