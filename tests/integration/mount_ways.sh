#!/bin/bash
# The ways to a mount and from it: as a daemon in the background, by
# mount -t fuse.elasticfs as an fstab line has it, read-only, ended by umount, by
# SIGTERM, SIGINT and SIGHUP, also while files are open; what was written is there each
# time, and what was removed while open is free.
source "$(dirname "$0")/../lib/harness.sh"

begin
need pgrep mount.fuse3 findmnt
create_pool 256M

# The process that serves the pool, when it is not our child.
server() { pgrep -f -- "elasticfs $pool $mount" || true; }
gone() { [[ -z $(server) ]] && ! mountpoint -q "$mount"; }

"$elasticfs" "$pool" "$mount" || fail "elasticfs as a daemon"
mountpoint -q "$mount" || fail "elasticfs returned before the pool was mounted"
mkdir "$mount/vm1"
[[ $(stat -c %a "$mount/vm1") == 700 || $(stat -c %a "$mount/vm1") == 755 ]] ||
  fail "mode of a VM directory: $(stat -c %a "$mount/vm1")"
echo one >"$mount/vm1/file"
[[ -n $(server) ]] || fail "no daemon serves the pool"
# The next daemon waits until the one before it has closed the pool.
for _ in 1 2 3; do
  umount "$mount"
  "$elasticfs" "$pool" "$mount" || fail "hand-over after an unmount"
  [[ $(cat "$mount/vm1/file") == one ]] || fail "the file is lost in a hand-over"
done
umount "$mount"
wait_until 30 gone || fail "the daemon outlives its mount"
check_clean

# What mount(8) runs for the type fuse.elasticfs. The helper finds the program in
# PATH, which mount itself sets to the system's own directories.
PATH=$(dirname "$elasticfs"):$PATH mount.fuse3 "$pool" "$mount" -t fuse.elasticfs \
  -o rw,allow_other,noauto,_netdev || fail "mount.fuse3 -t fuse.elasticfs"
[[ $(cat "$mount/vm1/file") == one ]] || fail "the first daemon's file is lost"
echo two >"$mount/vm1/file"
findmnt -n -o FSTYPE "$mount" | grep -q '^fuse.elasticfs$' ||
  fail "the mount's type is $(findmnt -n -o FSTYPE "$mount")"
umount "$mount"
gone || wait_until 30 gone || fail "the daemon outlives its mount"
check_clean

for signal in TERM INT HUP; do
  mount_pool
  used=$(df --output=used -B1 "$mount" | tail -1)
  exec 7<"$mount/vm1" 8<>"$mount/vm1/file" 9<>"$mount/vm1/removed"
  dd if=/dev/urandom bs=1M count=8 status=none >&9
  rm "$mount/vm1/removed"
  [[ $(cat "$mount/vm1/file") == two ]] || fail "the file is lost"
  echo "$signal" >"$mount/vm1/$signal" # not flushed: a regular end keeps it
  kill -$signal "$daemon"
  wait_until 30 daemon_ended || fail "SIG$signal does not end the daemon"
  status=0
  wait "$daemon" || status=$?
  daemon=
  [[ $status -eq 0 ]] || fail "the daemon ended by SIG$signal with status $status"
  mountpoint -q "$mount" && fail "SIG$signal leaves the mount behind"
  exec 7<&- 8<&- 9<&-
  check_clean
  mount_pool
  left=$(($(df --output=used -B1 "$mount" | tail -1) - used))
  ((left < 2 << 20)) || fail "$left bytes of a removed file are in use after SIG$signal"
  unmount_pool
done

before=$(sha256sum <"$pool")
mount_pool ro
[[ $(cat "$mount/vm1/TERM") == TERM ]] || fail "not read-only, but unreadable"
for change in "touch $mount/vm1/new" "mkdir $mount/vm2" "rm $mount/vm1/file" \
  "truncate -s 1 $mount/vm1/file" "chmod 777 $mount/vm1"; do
  $change 2>/dev/null && fail "a read-only mount let through: $change"
done
unmount_pool
[[ $(sha256sum <"$pool") == "$before" ]] || fail "a read-only mount changed the pool"

# All of it is there.
mount_pool
for signal in TERM INT HUP; do
  [[ $(cat "$mount/vm1/$signal") == "$signal" ]] || fail "what was written before SIG$signal is lost"
done
unmount_pool
check_clean
finish
