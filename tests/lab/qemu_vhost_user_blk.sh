#!/bin/bash
# Our vhost-user-blk back end behind a foreign front end with a real guest: QEMU, on a real KVM,
# boots Debian's kernel with its root on a disk that elasticfs serves on a socket; fio verifies in
# the guest, what it trims leaves the pool. Then with its root on a back end that is killed with
# kill -9 under load and started again, over and over: QEMU connects again and hands over the notes
# of what was in flight (INFLIGHT_SHMFD), and the guest sees nothing but a pause. The judges: fio,
# the guest's kernel, e2fsck, a comparison from outside, and the notes themselves, which must show
# that requests were in flight.
#
# KILLS: how often (5).
source "$(dirname "$0")/linux_guest.sh"
kills=${KILLS:-5}
server=$build/tests/integration/vhost_user_disk
begin_guests
need qemu-system-x86_64 python3
choose_seed
took() { say "$SECONDS s: $1"; }
make_initrd

# run_qemu NAME WORD SOCKET...: each socket a disk
run_qemu() {
  local name=$1 word=$2 disks=() number=0
  shift 2
  for socket in "$@"; do
    disks+=(-chardev "socket,id=disk$number,path=$socket$reconnect"
      -device "vhost-user-blk-pci,chardev=disk$number,num-queues=1,disable-legacy=on")
    number=$((number + 1))
  done
  : >"$name"
  timeout 900 qemu-system-x86_64 -machine q35,memory-backend=ram -accel kvm -cpu host -m 256 \
    -object memory-backend-memfd,id=ram,size=256M,share=on -nodefaults -display none -serial stdio \
    -kernel "$elf" -initrd initrd.gz -append "$line do=$word" "${disks[@]}" <&8 >>"$name" 2>>"$name.err" &
  guest=$!
  children+=("$guest")
}

serve() {  # serve SOCKET FILE [KIND]: $backend
  local try
  for ((try = 0; try < 100; try++)); do  # the one that was killed lets go of the file a moment later
    rm -f "$1"
    "$server" "$1" "$2" 1 ${3:+"$3"} >>"$1.log" 2>&1 &
    backend=$!
    children+=("$backend")
    until [[ -S $1 ]] || ! kill -0 "$backend" 2>/dev/null; do sleep 0.05; done
    [[ ! -S $1 ]] || return 0
    wait "$backend" || true
    sleep 0.1
  done
  fail "the back end: $(tail -n 3 "$1.log")"
}
kill_backend() {
  kill -9 "$backend"
  wait "$backend" 2>/dev/null || true
}

# QEMU has connected to it and given it the notes.
has_notes() { grep -q memfd:in-flight "/proc/$backend/maps"; }
wait_for_qemu() { wait_until 120 has_notes || fail "QEMU does not come: $(tail -n 5 "$1.err")"; }

# in_flight [lose]: how many requests the notes that QEMU keeps say were taken and not given back.
# With "lose" they are gone afterwards. (Of a queue: 16 bytes of header, then 16 per descriptor,
# the first of which tells.)
in_flight() {
  python3 - "$(pgrep -P "$guest" -f qemu-system)" "$@" <<'END'
import os, sys
directory = f'/proc/{sys.argv[1]}/fd/'
notes = [directory + fd for fd in os.listdir(directory) if 'memfd:in-flight' in os.readlink(directory + fd)]
if not notes:
    sys.exit('QEMU keeps no notes')
count = 0
for path in notes:
    with open(path, 'r+b') as file:
        data = file.read()
        count += sum(data[at] for at in range(16, len(data), 16))
        if 'lose' in sys.argv:
            file.seek(0)
            file.write(bytes(len(data)))
print(count)
END
}

# The kernel's word that a disk failed it, or that a driver was answered what it never asked.
has_trouble() { grep -aE 'I/O error|EXT4-fs (error|warning)|is not a head|blocked for more' "$1"; }
content_on() {  # content_on IMAGE NAME: the file that the guest wrote last
  e2fsck -fn "$1" >fsck.log 2>&1 || fail "$2: $(head -n 20 fsck.log)"
  debugfs -R "dump /copy copy" "$1" 2>/dev/null
  cmp copy content || fail "$2: what the guest wrote is not on its disk"
}

took "a root file system"
head -c 4M /dev/urandom >content
cat >verify <<'END'
export PATH=/bin
dmesg -n 5
fio --name=v --filename=/work --size=8m --bsrange=4k-64k --rw=randwrite --ioengine=libaio \
  --iodepth=8 --direct=1 --verify=xxhash --verify_fatal=1 --thread --disk_util=0 >/tmp/log 2>&1 &&
  echo "guest: verified" || cat /tmp/log
cp /content /copy && sync && echo "guest: full"
read word
rm /work && sync && fstrim / && echo "guest: trimmed"
mount -o remount,ro / && echo "guest: done"
poweroff -f
END
cat >load <<'END'
export PATH=/bin
dmesg -n 5
fio --name=v --filename=/work --size=8m --bsrange=4k-32k --rw=randwrite --ioengine=libaio \
  --iodepth=16 --direct=1 --verify=xxhash --verify_fatal=1 --loops=1000000 --thread --disk_util=0 >/log 2>&1 &
fio=$!
until [ -s /work ]; do usleep 100000; done
echo "guest: loaded"
read word
kill -INT $fio; wait $fio; echo "guest: fio ended with $?"
grep -E 'err=|verify:|READ:|WRITE:' /log | sed 's/^/guest: fio /'
fio --name=v --filename=/last --size=4m --bs=4k --rw=randwrite --ioengine=libaio --iodepth=16 \
  --direct=1 --verify=xxhash --verify_fatal=1 --thread --disk_util=0 >/log 2>&1 &&
  echo "guest: verified" || cat /log
cp /content /copy && sync && mount -o remount,ro / && echo "guest: done"
poweroff -f
END
# The first write to /dev/vdb is carried out and not answered, those behind it are.
cat >held <<'END'
export PATH=/bin
dmesg -n 5
dd if=/content of=/dev/vdb bs=4k count=1 oflag=direct 2>/dev/null && echo "guest: answered" &
first=$!
until [ "$(awk '{ print $2 }' /sys/block/vdb/inflight)" = 1 ]; do usleep 100000; done
for at in 1 2 3 4; do dd if=/content of=/dev/vdb bs=4k count=1 skip=$at seek=$at oflag=direct 2>/dev/null; done
echo "guest: holds"
read word
dd if=/content of=/dev/vdb bs=4k count=1 skip=5 seek=5 oflag=direct 2>/dev/null && echo "guest: wrote"
wait $first
mount -o remount,ro / && echo "guest: done"
poweroff -f
END
make_root root.img verify load held content

took "root on an elastic disk, by elasticfs's socket"
create_pool 1G
mkdir sockets
mount_pool "vhost-user-dir=$work/sockets"
mkdir "$mount/vm1"
cp --sparse=always root.img "$mount/vm1/root.img"
sync "$mount/vm1/root.img"
reconnect=
run_qemu elastic verify sockets/vm1/root.img
wait_for_guest elastic full
says elastic "cpus 1 disks vda:root.img:" && says elastic verified || fail "elastic: $(shown elastic)"
pool_bytes() { echo $(($(stat -c %b "$pool") * 512)); }
full=$(pool_bytes)
type_line go
wait_for_guest elastic done
end_guest elastic
says elastic trimmed && ! has_trouble elastic || fail "elastic: $(shown elastic)"
is_lower() { [[ $(pool_bytes) -le $((full - (6 << 20))) ]]; }
wait_until 60 is_lower || fail "the pool takes $(pool_bytes) bytes after the trim, before $full"
content_on "$mount/vm1/root.img" elastic
say "verified; trimmed: $((full - $(pool_bytes))) bytes less in the pool"
unmount_pool
check_clean

took "root on a back end that is killed"
reconnect=,reconnect=1
cp --sparse=always root.img killed.img
serve killed.socket killed.img slow
run_qemu killed load killed.socket
wait_for_guest killed loaded
total=0 counts=()
# Also until enough was in flight, of what now and then is none.
while [[ ${#counts[@]} -lt $kills || $total -lt $kills ]]; do
  [[ ${#counts[@]} -lt $((4 * kills)) ]] || fail "too little was in flight for a test: ${counts[*]}"
  sleep "$((RANDOM % 2 + 1)).$((RANDOM % 10))"
  kill_backend
  count=$(in_flight)
  counts+=("$count")
  total=$((total + count))
  serve killed.socket killed.img slow
  wait_for_qemu killed
done
type_line go
wait_for_guest killed done
end_guest killed
wait "$backend" || fail "the last back end: $(tail -n 3 killed.socket.log)"
grep -a '^guest: fio' killed
says killed verified && ! has_trouble killed || fail "killed: $(shown killed)"
grep -aqE '^guest: fio v: .*err= 0:' killed && ! grep -aq 'verify:' killed || fail "fio: $(shown killed)"
content_on killed.img killed
say "killed ${#counts[@]} times, with ${counts[*]} requests in flight: verified"

# A request that was overtaken: how many were answered tells nothing of it, only the notes do. The
# twin: where they are lost, it is never answered.
for notes in kept lost; do
  took "a request that was overtaken, its notes $notes"
  cp --sparse=always root.img "$notes.img"
  rm -f second.img
  truncate -s 1M second.img
  serve "$notes.root" "$notes.img"
  root_backend=$backend
  serve "$notes.socket" second.img holding
  run_qemu "$notes" held "$notes.root" "$notes.socket"
  wait_for_guest "$notes" holds
  ! says "$notes" answered || fail "nothing was held"
  kill_backend
  [[ $(in_flight) -eq 1 ]] || fail "$(in_flight) requests in flight, not the one that is held"
  [[ $notes == kept ]] || in_flight lose >/dev/null
  serve "$notes.socket" second.img
  wait_for_qemu "$notes"
  type_line go
  if [[ $notes == kept ]]; then
    wait_for_guest kept done
    end_guest kept
    says kept answered && says kept wrote && ! has_trouble kept || fail "kept: $(shown kept)"
    wait "$backend" && wait "$root_backend" || fail "the back ends: $(tail -n 3 kept.*.log)"
    cmp -n $((6 << 12)) second.img content || fail "other data"
  else
    # The last answered one is carried out again: its place holds a newer request by then, or none.
    is_wrong() { has_trouble lost || grep 'broke the rules' lost.socket.log; }
    sees_it() { is_wrong >/dev/null || says lost wrote || ! kill -0 "$guest" 2>/dev/null; }
    wait_until 300 sees_it || fail "lost: $(shown lost)"
    sleep 3
    ! says lost answered || fail "lost notes went unseen: $(shown lost)"
    say "$(is_wrong | head -n 1 | grep . || echo "a later request is answered, this one is not")"
    kill "$guest"
    wait "$guest" || true
  fi
done
finish "passed in $SECONDS s"
