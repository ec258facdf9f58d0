#!/bin/bash
# 8 disks of 10 GiB on a pool of 8 GiB, filled to the last block. New blocks get
# ENOSPC (never EIO), mapped blocks are rewritten without error, a VM with a
# reservation sees no error at all, and after a delete writing goes on; no repair
# in between. GIB scales the pool (and the disks) down.
source "$(dirname "$0")/../lib/harness.sh"
gib=${GIB:-8}
tail=$((gib * 10 / 8 * 1024)) # MiB: where the disks' last GiB begins, never filled
stamp=$build/tests/integration/stamp

begin
need jq
need_space $((gib * 1024 + 512))
choose_seed
create_pool "${gib}G"
mount_pool
disks=()
for i in 1 2 3 4 5 6 7 8; do
  make_disk "vm$i/disk.img" $((tail + 1024))M
  disks[i]=$disk
done
reserve=$((gib * 64)) # MiB, kept for vm8 and first touched when all else is full
make_vm vm8 --reserve "${reserve}M"

# fill DISK TAG [OPTION...]: writes until ENOSPC; prints the bytes that went in.
fill() {
  local file=$1 tag=$2 status=0
  shift 2
  "$stamp" write "$file" --tag "$tag" --direct "$@" >"$work/fill.$tag" || status=$?
  [[ $status -eq 3 ]] || fail "filling $tag ended with status $status: $(cat "$work/fill.$tag")"
}

started=$SECONDS
pids=()
for i in 1 2 3 4 5 6 7; do
  fill "${disks[i]}" "disk$i" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a writer saw more than ENOSPC"; done
say "filled $(figure used_bytes) of $(figure data_bytes) bytes in $((SECONDS - started)) s"
left=$(($(figure data_bytes) - $(figure used_bytes) - (reserve << 20)))
[[ $left -lt $((8 << 20)) ]] || fail "ENOSPC while $left bytes were free to all"

# The rest in blocks of 4 KiB, so that not one is left.
for i in 1 2 3 4 5 6 7; do
  "$stamp" write "${disks[i]}" --tag rest --from "${tail}M" --piece 4K --direct \
    >"$work/rest" && fail "disk $i still gets fresh blocks: $(cat "$work/rest")"
done
left=$(($(figure data_bytes) - $(figure used_bytes) - (reserve << 20)))
[[ $left -le 0 ]] || fail "$left bytes of the full pool can be had by nobody"
for i in 1 2 3 4 5 6 7; do
  written=$(sed -n 's/^written \([0-9]*\).*/\1/p' "$work/fill.disk$i")
  lengths[i]=$written
  status=0
  "$stamp" write "${disks[i]}" --tag late --from "$((tail + 900))M" --length 4K --piece 4K \
    >"$work/late" 2>&1 || status=$?
  [[ $status -eq 3 ]] || fail "a cached write of a fresh block must end in ENOSPC: $(cat "$work/late")"
done

# The VM with the reservation has its own still.
"$stamp" write "${disks[8]}" --tag disk8 --length "$((reserve * 9 / 10))M" --direct
"$stamp" verify "${disks[8]}" --tag disk8 --length "$((reserve * 9 / 10))M"

# Mapped blocks: rewritten whole, then in sectors, on a pool that has nothing left.
for i in 1 2 3; do
  "$stamp" write "${disks[i]}" --tag "disk$i" --generation 2 --length "${lengths[i]}" --direct
  "$stamp" write "${disks[i]}" --tag "disk$i" --generation 2 --length "${lengths[i]}" \
    --piece 512 --step 999K --seed "$seed"
  "$stamp" verify "${disks[i]}" --tag "disk$i" --generation 2 --length "${lengths[i]}"
done
for i in 4 5; do
  "$stamp" verify "${disks[i]}" --tag "disk$i" --length "${lengths[i]}"
done

# Space from a delete serves the others at once.
rm "${disks[1]}"
"$stamp" write "${disks[6]}" --tag disk6 --from "${lengths[6]}" \
  --length $((lengths[1] * 9 / 10 / 4096 * 4096)) --direct
"$stamp" verify "${disks[6]}" --tag disk6 --length $((lengths[6] + lengths[1] * 9 / 10 / 4096 * 4096))
unmount_pool
check_clean
# Open again, still nearly full: nothing is lost.
mount_pool
"$stamp" verify "${disks[7]}" --tag disk7 --length "${lengths[7]}"
unmount_pool
finish "passed in $SECONDS s"
