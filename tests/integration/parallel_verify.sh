#!/bin/bash
# fio with checksums on 8 disks at once, each a loop device with ext4, xfs or btrfs
# on it, mounted with discard; then fstrim, unmount, and the file system's own
# check. SIZE is what fio writes per disk, LOOPS how often over.
source "$(dirname "$0")/../lib/harness.sh"
size=${SIZE:-64M} rounds=${LOOPS:-1}

begin
need fio mkfs.ext4 mkfs.xfs mkfs.btrfs fstrim jq
need_space 3000
choose_seed
create_pool 3G
mount_pool

kinds=(ext4 xfs btrfs ext4 xfs btrfs ext4 ext4)
jobs=()
for i in "${!kinds[@]}"; do
  kind=${kinds[i]}
  grep -qw "$kind" /proc/filesystems || { say "no $kind in this kernel: ext4 instead"; kind=ext4; }
  kinds[i]=$kind
  make_disk "vm$i/disk.img" 1G
  # Half of the loop devices pass the cache by, as VMs do.
  direct=off; [[ $((i % 2)) -eq 0 ]] || direct=on
  attach "$disk" --direct-io=$direct
  devices[i]=$loop
  case $kind in
    ext4) mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop" ;;
    xfs) mkfs.xfs -q "$loop" ;;
    btrfs) without_dead_mounts mkfs.btrfs -q "$loop" >/dev/null ;;
  esac
  mount_on "$work/fs$i" -o discard "$loop"
  jobs+=(--name="disk$i-$kind" --directory="$work/fs$i")
done

# Options before the first --name are every job's. A run of fio for each round: its own
# loops take what one loop wrote for damage in the next, on a plain file, too.
for ((round = 0; round < rounds; round++)); do
  fio --size="$size" --rw=randrw --rwmixread=30 --bsrange=512-64k \
    --ioengine=libaio --iodepth=8 --verify=xxhash --verify_fatal=1 \
    --do_verify=1 --fsync=256 --randseed="$((seed + round))" --group_reporting \
    --output="$work/fio.log" "${jobs[@]}" ||
    { cat "$work/fio.log" >&2; fail "fio found a difference in round $round"; }
  grep -E 'err= *0' "$work/fio.log" >/dev/null || { cat "$work/fio.log"; fail "fio reports errors"; }
done

for i in "${!kinds[@]}"; do sync -f "$work/fs$i"; done
used=$(figure used_bytes)
files=$(du -sB1 --total "$work"/fs*/disk* | tail -1 | cut -f1)
for i in "${!kinds[@]}"; do
  rm "$work/fs$i"/disk*
  sync -f "$work/fs$i"
  fstrim "$work/fs$i" || fail "fstrim of ${kinds[i]}"
done
after=$(figure used_bytes)
say "used $((used >> 20)) MiB, of it files $((files >> 20)) MiB; after fstrim $((after >> 20)) MiB"
[[ $((used - after)) -ge $((files * 9 / 10)) ]] || fail "fstrim gave back too little"

for i in "${!kinds[@]}"; do
  unmount_from "$work/fs$i"
  case ${kinds[i]} in
    ext4) e2fsck -fn "${devices[i]}" >"$work/fsck.log" 2>&1 ;;
    xfs) xfs_repair -n "${devices[i]}" >"$work/fsck.log" 2>&1 ;;
    btrfs) without_dead_mounts btrfs check "${devices[i]}" >"$work/fsck.log" 2>&1 ;;
  esac || { cat "$work/fsck.log" >&2; fail "${kinds[i]} on disk $i is damaged"; }
  detach "${devices[i]}"
done
unmount_pool
check_clean
finish
