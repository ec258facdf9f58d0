#!/bin/bash
# Every verb of elasticctl, on an offline pool and on a mounted one, by pool file,
# mount point and path on the mount. JSON is judged by jq, figures by what stat(1)
# and du(1) say of the same disks, exit statuses by the promise 0, 1, 2.
source "$(dirname "$0")/../lib/harness.sh"

begin
need jq curl
need_space 200
export ELASTICFS_RUN=$work/run

ctl() { "$elasticctl" "$@"; }

# expect WHAT STATUS PATTERN COMMAND...: exit status, and what it says.
expect() {
  local what=$1 wanted=$2 pattern=$3 status=0
  shift 3
  "$@" >"$work/out" 2>&1 || status=$?
  [[ $status -eq $wanted ]] || fail "$what: status $status, not $wanted: $(cat "$work/out")"
  grep -Eq -- "$pattern" "$work/out" || fail "$what: '$pattern' is not in: $(cat "$work/out")"
}
# holds WHAT FILTER COMMAND...: the JSON that the command prints satisfies the filter.
holds() {
  local what=$1 filter=$2
  shift 2
  "$@" >"$work/out" || fail "$what: $* failed"
  jq -e "$filter" "$work/out" >"$work/jq" || fail "$what: not ($filter): $(cat "$work/out")"
}

# --- offline, empty ---
holds "create" '.pool_bytes == 268435456 and .chunk_bytes == 131072 and .live == false' \
  ctl create "$pool" --size 256M --chunk 128K --json
[[ $(stat -c %a "$pool") == 600 ]] || fail "a pool is its owner's alone"
expect "create over a pool" 1 "holds a pool already.*--force" ctl create "$pool" --size 256M
echo text >"$work/text"
expect "create over a file" 1 "holds other data.*--force" ctl create "$work/text" --size 256M
[[ $(cat "$work/text") == text ]] || fail "a refused create changed the file"
expect "create too small by force" 1 "too small" ctl create "$work/text" --size 64K --force
[[ $(cat "$work/text") == text ]] || fail "an impossible create changed the file"
expect "failed create" 1 "too small" ctl create "$work/new" --size 64K
[[ ! -e $work/new ]] || fail "a failed create left its file behind"
expect "create without a size" 1 "needs --size" ctl create "$work/new"
expect "list" 0 "no VMs yet" ctl list "$pool"
expect "watch" 2 "offline" ctl stat --watch "$pool"
expect "map without a disk" 2 "which disk" ctl map "$pool"
expect "grow without a size" 1 "size it shall grow to" ctl grow "$pool"
expect "vm set without a setting" 2 "--quota" ctl vm set "$pool" vm1
expect "check" 0 "no faults" ctl check "$pool"
holds "check" '.sound and .findings == [] and .losses == []' ctl check --json "$pool"

# --- live ---
mount_pool
make_disk vm1/a.img 1G
a=$disk
make_disk "vm2/b c+%.img" 512M
b=$disk
dd if=/dev/urandom of="$a" bs=1M count=8 seek=3 conv=notrunc status=none
dd if=/dev/urandom of="$b" bs=4K count=1 conv=notrunc,fsync status=none
sync "$a"
used=$(($(stat -c %b "$a") * 512 + $(stat -c %b "$b") * 512))
[[ $used -ge $((8 << 20)) ]] || fail "stat says the disks hold $used bytes"

for name in "$mount" "$mount/vm1" "$a" "$pool"; do
  holds "info by $name" ".live and .mount_point == \"$mount\" and .used_bytes == $used" \
    ctl info --json "$name"
done
socket=$(echo "$ELASTICFS_RUN"/*.sock)
[[ $socket == "$ELASTICFS_RUN/$(ctl info --json "$pool" | jq -r .uuid).sock" ]] ||
  fail "the socket is called $socket"
[[ $(stat -c %a "$socket") == 600 ]] || fail "the control socket is open to others"

holds "list" '[.vms[].disks[].name] == ["a.img", "b c+%.img"]' ctl list --json "$mount"
holds "list" '.vms[0] | .mode == "0700" and .disks[0].size_bytes == 1073741824' \
  ctl list --json "$mount"
expect "list" 0 '^vm1/a.img +1 GiB +8 MiB' ctl list "$mount"
holds "stat" ".used_bytes == $used and ([.vms[].used_bytes] | add) == $used" \
  ctl stat --json "$mount"
expect "stat" 0 '^vm2 +1 +4 KiB' ctl stat "$mount"
expect "stat --prometheus" 0 "^elasticfs_used_bytes\{pool=\"[-0-9a-f]{36}\"\} $used\$" \
  ctl stat --prometheus "$mount"
expect "metrics over the socket" 0 "^elasticfs_used_bytes\{.*\} $used\$" \
  curl -sf --unix-socket "$socket" http://localhost/v1/metrics
ctl stat --watch --interval 0.1 --json "$mount" 2>/dev/null | head -n 3 >"$work/watched" || true
[[ $(jq -s 'map(.used_bytes) | unique | length' "$work/watched") == 1 &&
  $(wc -l <"$work/watched") == 3 ]] || fail "stat --watch: $(cat "$work/watched")"

# The map covers the disk without gap or overlap, and its data is in the pool file.
whole='(. as $m | .ranges | (map(.length) | add) == $m.size_bytes
  and ([range(1; length) as $i | .[$i - 1].offset + .[$i - 1].length == .[$i].offset] | all)
  and (map(select(.kind != "hole").length) | add) == $m.used_bytes)'
holds "map by path" "$whole" ctl map --json "$a"
read -r offset length at < <(jq -r \
  '.ranges[] | select(.kind == "data") | "\(.offset) \(.length) \(.pool_offset)"' "$work/out")
cmp -n "$length" -i "$offset:$at" "$a" "$pool" || fail "the map of a.img points elsewhere"
holds "map by pool and name" "$whole and .disk == \"vm2/b c+%.img\"" \
  ctl map --json "$pool" "vm2/b c+%.img"
expect "map" 0 'hole' ctl map "$a"
expect "map of no disk" 1 "vm1/none.*no such disk" ctl map "$mount" vm1/none
expect "map of a VM" 1 "VM/DISK" ctl map "$mount/vm1"

holds "vm set" '.quota_bytes == 67108864 and .reserve_bytes == 16777216' \
  ctl vm set "$mount/vm1" --quota 64M --reserve 16M --json
expect "vm set by name" 0 "quota none, reserve none, scratch" \
  ctl vm set "$mount" vm2 --durability scratch
expect "vm set by pool file" 0 "quota 32 MiB, reserve none, scratch" \
  ctl vm set "$pool" vm2 --quota 32M
expect "vm set beyond the pool" 1 "reserv|space" ctl vm set "$mount" vm1 --reserve 10G
expect "vm set of no VM" 1 "nobody.*no such VM" ctl vm set "$mount" nobody --quota 1G
# statfs tells the guest the quota.
[[ $(($(stat -f -c '%b * %S' "$mount/vm1"))) -eq $((64 << 20)) ]] || fail "statfs of vm1"
[[ $(curl -s -o "$work/out" -w '%{http_code}' --unix-socket "$socket" -X PUT \
  -d '{"qouta": 1}' http://localhost/v1/vm/vm1) == 400 ]] || fail "a misspelt setting was taken"

expect "grow" 0 "320 MiB" ctl grow "$mount" 320M
expect "shrink" 1 "cannot shrink" ctl grow "$mount" --size 300M
holds "grow by pool file" '.pool_bytes == 402653184' ctl grow --json "$pool" --size 384M
[[ $(stat -c %s "$pool") == $((384 << 20)) ]] || fail "the pool file did not grow"
holds "dump" '.info.live and (.vms[0].disks[0].ranges | length) > 0' ctl dump --json "$mount"
expect "dump" 0 '^VM vm2: quota 32 MiB' ctl dump "$mount"
holds "map by id" '.disk == "vm1/a.img"' \
  ctl map --json "$pool" "$(ctl list --json "$pool" | jq '.vms[0].disks[0].id')"
expect "map of an id that is no disk" 1 "not the id of a disk" ctl map "$pool" 1
expect "full output" 1 "cannot write" bash -c '"$0" list "$1" >/dev/full' "$elasticctl" "$mount"
expect "check of a live pool" 1 "mounted on $mount; unmount it" ctl check "$pool"
expect "check of a mount" 1 "unmount" ctl check "$mount"
expect "create over a live pool" 1 "in use" ctl create "$pool" --size 256M --force
expect "not a pool" 1 "is not a pool" ctl info "$work/text"
expect "check of a directory" 1 "neither a pool nor" ctl check "$work"
expect "not on a mount" 1 "neither a pool nor" ctl info "$work"

# A copy has the same UUID; the daemon of the original is not asked for it.
cp --sparse=always "$pool" "$work/copy"
holds "copy" ".live == false and .path == \"$work/copy\"" ctl info --json "$work/copy"

# --- a daemon that died, and its socket ---
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
daemon=
[[ -S $socket ]] || fail "kill -9 removed the socket"
expect "dead mount" 1 "daemon is gone.*fusermount3 -u" ctl info "$mount"
umount "$mount"
expect "check after a kill" 0 "no faults" ctl check "$pool"
holds "settings after a kill" \
  '.vms | .[0].quota_bytes == 67108864 and .[1].durability == "scratch"' ctl list --json "$pool"
mount_pool
holds "info over the new socket" ".live and .pool_bytes == 402653184" ctl info --json "$pool"
unmount_pool
[[ ! -e $socket ]] || fail "the daemon left its socket behind"

# --- offline, with disks ---
holds "info" ".live == false and .disk_count == 2 and .used_bytes == $used" ctl info --json "$pool"
holds "map" "$whole" ctl map --json "$pool" vm1/a.img
holds "dump" '[.vms[].disks[].name] == ["a.img", "b c+%.img"]' ctl dump --json "$pool"
expect "stat" 0 '^vm1 +1 +8 MiB' ctl stat "$pool"
expect "vm set" 0 "quota 1 GiB, reserve 16 MiB, durable" ctl vm set "$pool" vm1 --quota 1G
holds "vm set, read again" '.vms[0].quota_bytes == 1073741824' ctl list --json "$pool"
expect "grow" 0 "512 MiB" ctl grow "$pool" --size 512M
holds "grow, read again" '.pool_bytes == 536870912' ctl info --json "$pool"
check_clean

# --- damage: check finds it, and repairs what the second superblock makes good ---
dd if=/dev/urandom of="$pool" bs=512 count=1 conv=notrunc status=none
expect "check of damage" 1 "^found:.*superblock" ctl check "$pool"
expect "check changes nothing" 1 "^found:.*superblock" ctl check "$pool"
expect "repair" 0 "^repaired:" ctl check --repair "$pool"
check_clean
holds "after the repair" ".used_bytes == $used" ctl info --json "$pool"

# --- usage ---
expect "no verb" 2 "subcommand" ctl
expect "unknown verb" 2 "nonsense" ctl nonsense
expect "not a size" 2 "12Q.*is not a size" ctl create "$work/new" --size 12Q
expect "two outputs" 2 "json" ctl stat --json --prometheus "$pool"
for verb in create info list stat map "vm set" grow check dump; do
  # shellcheck disable=SC2086
  expect "$verb --help" 0 "Usage: elasticctl $verb" ctl $verb --help
done
finish
