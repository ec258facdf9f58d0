#!/bin/bash
# The disks of a mounted pool on vhost-user-blk sockets: the files beside the disks' own,
# who may connect, and one content seen from both sides. The front end is QEMU, which runs
# the test guest; where a greeting is enough, it is a few lines of Python.
source "$(dirname "$0")/../lib/harness.sh"
kernel=$build/subprojects/testguest/testguest.elf

need qemu-system-x86_64 python3 setpriv
begin
sockets=$work/sockets
front=$work/front.py
cat >"$front" <<'END'
"""front.py SOCKET [hold]: asks for the features; "hold": then waits for the end of input."""
import socket, struct, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except OSError as error:
    sys.exit(print(error.strerror) or 1)
try:
    s.sendall(struct.pack('<III', 1, 1, 0))
    answer = s.recv(20)
except ConnectionError:
    answer = b''
print('served' if len(answer) == 20 else 'sent away', flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
END
greet() { python3 "$front" "$1" </dev/null || true; }
is_said() { [[ $(greet "$1") == "$2" ]]; }

pattern() {  # pattern [FILE]: the disk test's, written or compared
  python3 - "$@" <<'END'
import struct, sys
want = b''.join(struct.pack('<I', word * 2654435761 % 2**32 ^ 0x7469646e) for word in range(32768))
data = open(sys.argv[1], 'rb').read(len(want))
sys.exit(0 if data == want else 1)
END
}

# start_qemu SOCKET [STATE-OF-SEALS]: stopped before its first instruction; $qemu
start_qemu() {
  rm -f "$work/monitor"
  timeout 300 qemu-system-x86_64 -machine q35,memory-backend=ram -accel tcg -cpu max -m 64 \
    -object "memory-backend-memfd,id=ram,size=64M,share=on,seal=${2:-on}" -nodefaults \
    -display none -no-reboot -serial "file:$work/guest.log" -kernel "$kernel" -append test=disk \
    -chardev "socket,id=s,path=$1" \
    -device vhost-user-blk-pci,chardev=s,num-queues=4,disable-legacy=on \
    -S -monitor "unix:$work/monitor,server=on,wait=off" </dev/null >"$work/qemu.log" 2>&1 &
  qemu=$!
  children+=("$qemu")
  wait_until 60 qemu_settled || fail "QEMU: $(cat "$work/qemu.log")"
}
qemu_settled() { [[ -S $work/monitor ]] || ! kill -0 "$qemu" 2>/dev/null; }
# The monitor's socket is there before it is listened on, and a command is only taken for
# sure when the prompt after it has come.
tell_qemu() {
  python3 - "$work/monitor" "$qemu" "$1" <<'END'
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
while True:
    try:
        s.connect(sys.argv[1])
        break
    except ConnectionRefusedError:
        os.kill(int(sys.argv[2]), 0)
        time.sleep(0.02)
heard = b''
def until_prompts(count):
    global heard
    while heard.count(b'(qemu) ') < count:
        got = s.recv(4096)
        if not got:
            sys.exit()  # QEMU ended: its exit status tells
        heard += got
until_prompts(1)
s.sendall(sys.argv[3].encode() + b'\n')
until_prompts(2)
END
}
end_of_qemu() {
  wait "$qemu" || fail "QEMU: $(cat "$work/qemu.log" "$work/guest.log")"
  grep -q '^testguest: passed' "$work/guest.log" || fail "the guest: $(cat "$work/guest.log")"
}

create_pool 256M
mount_pool
make_disk vm1/disk0 8M
unmount_pool
mount_pool "vhost-user-dir=$sockets"

# --- the files: beside each disk, as its name, owner and mode say ---
[[ -S $sockets/vm1/disk0 ]] || fail "a disk that was there has no socket"
make_disk vm2/a.img 8M
[[ -S $sockets/vm2/a.img ]] || fail "a new disk has no socket"
mv "$mount/vm2/a.img" "$mount/vm2/b.img"
[[ -S $sockets/vm2/b.img && ! -e $sockets/vm2/a.img ]] || fail "a renamed disk"
make_disk vm2/c.img 8M
mv "$mount/vm2/c.img" "$mount/vm2/b.img"
[[ -S $sockets/vm2/b.img && ! -e $sockets/vm2/c.img ]] || fail "a replaced disk"
is_said "$sockets/vm2/b.img" served || fail "a replaced disk is not served"
mv "$mount/vm2/b.img" "$mount/vm1/b.img"
[[ -S $sockets/vm1/b.img && ! -e $sockets/vm2/b.img ]] || fail "a disk that moved to another VM"
rm "$mount/vm1/b.img"
rmdir "$mount/vm2"
[[ ! -e $sockets/vm1/b.img && ! -e $sockets/vm2 ]] || fail "removed names stay"
mv "$mount/vm1" "$mount/vm3"
is_said "$sockets/vm3/disk0" served || fail "a VM that was renamed"
[[ ! -e $sockets/vm1 ]] || fail "a renamed VM's directory stays"
long=$(printf 'n%.0s' {1..200})
make_disk "vm3/$long" 1M
[[ -f $mount/vm3/$long && ! -e $sockets/vm3/$long ]] || fail "a disk with a long name"
rm "$mount/vm3/$long"
say "names: followed"

make_disk vm4/a.img 8M
chown -R 65533:65533 "$mount/vm4"
as() { setpriv --reuid "$1" --regid "$2" --clear-groups /usr/bin/env PATH=/usr/bin:/bin python3 "$front" "$sockets/$3" </dev/null || true; }
[[ $(as 65533 65533 vm4/a.img) == served ]] || fail "the owner is not let in"
[[ $(as 65533 65533 vm3/disk0) == 'Permission denied' ]] || fail "another VM's owner is let in"
chmod 0660 "$mount/vm4/a.img"
[[ $(as 65534 65533 vm4/a.img) == 'Permission denied' ]] || fail "the VM's directory is passed by"
chmod 0710 "$mount/vm4"
[[ $(as 65534 65533 vm4/a.img) == served ]] || fail "the group is not let in"
chmod 0400 "$mount/vm4/a.img"
[[ $(as 65533 65533 vm4/a.img) == 'Permission denied' ]] || fail "who may only read is let in"
rm -r "$mount/vm4"
say "owners: kept apart"

# --- who may use a disk beside a front end ---
disk=$mount/vm3/disk0 socket=$sockets/vm3/disk0
dd if=/dev/urandom of="$disk" bs=64K count=2 conv=notrunc status=none  # and the cache has it
cat "$disk" >"$work/before"
exec 5<"$disk"
[[ $(greet "$socket") == 'sent away' ]] || fail "served beside a file that is open in the cache"
exec 5<&-
wait_until 60 is_said "$socket" served || fail "not served after the file was closed"
wait_until 60 is_said "$socket" served || fail "not served after a front end went"

start_qemu "$socket"
[[ -S $work/monitor ]] || fail "QEMU: $(cat "$work/qemu.log")"
[[ $(greet "$socket") == 'sent away' ]] || fail "two front ends"
! truncate -s 4M "$disk" 2>/dev/null || fail "shrunk under a front end"
! umount "$mount" 2>/dev/null || fail "unmounted under a front end"
python3 - "$disk" <<'END' || fail "a shared mapping beside a front end"
import errno, mmap, os, sys
try:
    mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096)
except OSError as error:
    sys.exit(0 if error.errno == errno.ENODEV else 1)
sys.exit(1)
END
exec 5<"$disk"
python3 -c 'import os, sys; sys.exit(os.pread(5, 131072, 0) != open(sys.argv[1], "rb").read(131072))' \
  "$work/before" || fail "another content while nothing was written"
tell_qemu cont
end_of_qemu
pattern /proc/self/fd/5 || fail "a file that stayed open does not show what the front end wrote"
exec 5<&-
pattern "$disk" || fail "the kernel's cache shows what was there before the front end"
say "content: the same from both sides"

# --- front ends that are not taken, or not waited for ---
start_qemu "$socket" off
[[ ! -S $work/monitor ]] || tell_qemu cont 2>/dev/null || true
! wait "$qemu" || ! grep -q '^testguest: passed' "$work/guest.log" ||
  fail "memory that can be shortened is taken"
grep -q 'sealed against shrinking' "$work/daemon.log" || fail "no word about the seal"
wait_until 60 is_said "$socket" served || fail "not served after one that was sent away"

# A disk without a name is its front end's until that goes.
used() { figure used_bytes; }
full=$(used)
coproc HOLD { python3 "$front" "$socket" hold; }
holder=$HOLD_PID
read -r said <&"${HOLD[0]}"
[[ $said == served ]] || fail "the holder: $said"
rm "$disk"
[[ ! -e $socket ]] || fail "a removed disk's socket stays"
sleep 1.5
[[ $(used) -eq $full ]] || fail "the space of a disk in use went back"
eval "exec ${HOLD[1]}>&-"
wait "$holder"
space_back() { [[ $(used) -lt $full ]]; }
wait_until 60 space_back || fail "the space of a removed disk did not come back"
say "a removed disk: kept while in use"

# --- another daemon, and a dead one ---
make_disk vm3/new.img 8M
"$elasticctl" create "$work/other" --size 256M >/dev/null
mkdir "$work/other.mnt"
status=0
"$elasticfs" "$work/other" "$work/other.mnt" -f -o "vhost-user-dir=$sockets" 2>"$work/other.log" || status=$?
[[ $status -eq 1 ]] && grep -q 'sockets of another mount' "$work/other.log" || fail "two mounts, one directory"
status=0
"$elasticfs" "$work/other" "$work/other.mnt" -f -o "vhost-user-dir=$work/other.mnt/s" 2>"$work/other.log" || status=$?
[[ $status -eq 1 ]] && grep -q 'in the mount itself' "$work/other.log" || fail "sockets in the mount"
# A directory with what is not ours, and one that others write to.
mkdir -p "$work/foreign/deep" "$work/open"
chmod 777 "$work/open"
for place in foreign/top.socket foreign/deep/below.socket; do
  python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$work/$place"
done
for place in "foreign:holds other files" "open:nobody else may write"; do
  status=0
  "$elasticfs" "$work/other" "$work/other.mnt" -f -o "vhost-user-dir=$work/${place%%:*}" 2>"$work/other.log" || status=$?
  [[ $status -eq 1 ]] && grep -q "${place#*:}" "$work/other.log" || fail "$place: $(cat "$work/other.log")"
done
[[ -S $work/foreign/top.socket && -S $work/foreign/deep/below.socket ]] || fail "another's sockets were removed"
sync "$disk"  # its name, too, is the dead daemon's by now
kill_daemon
drop_dead_mount
[[ -S $sockets/vm3/new.img ]] || fail "a killed daemon cleaned up"
mount_pool "ro,vhost-user-dir=$sockets"
is_said "$sockets/vm3/new.img" served || fail "not served after the daemon was killed"
wait_until 60 umount "$mount" || fail "umount"
wait_until 60 daemon_ended || fail "the daemon did not end"
wait "$daemon" || fail "the daemon ended with an error"
daemon=
[[ -z $(ls "$sockets") ]] || fail "left behind: $(ls -R "$sockets")"
check_clean
finish
