#!/bin/bash
# Our block device, and nas-scsi's units, behind QEMU's vhost-user front ends: QEMU runs the test guest, whose
# driver and whose judge are neither's. The same guest on QEMU's own disk comes first, so
# that a fault of the guest's is not taken for ours.
source "$(dirname "$0")/../lib/harness.sh"
kernel=$build/subprojects/testguest/testguest.elf
server=$build/tests/integration/vhost_user_disk

need qemu-system-x86_64 python3 iscsi-inq
begin
cd "$work"

has_pattern() {
  python3 - "$1" <<'END'
import struct, sys
data = open(sys.argv[1], 'rb').read(128 * 1024)
want = b''.join(struct.pack('<I', word * 2654435761 % 2**32 ^ 0x7469646e) for word in range(len(data) // 4))
sys.exit(0 if data == want else 1)
END
}

# qemu NAME TEST ARGUMENT...
qemu() {
  local name=$1 test=$2 status=0
  shift 2
  timeout 300 qemu-system-x86_64 -machine q35,memory-backend=ram -accel tcg -cpu max -m 64 \
    -object memory-backend-memfd,id=ram,size=64M,share=on -nodefaults -display none -no-reboot \
    -serial stdio -kernel "$kernel" -append "test=$test" "$@" </dev/null >"$name" 2>"$name.err" || status=$?
  [[ $status -eq 0 ]] || fail "$name: exit status $status: $(cat "$name.err")"
  grep -qx 'testguest: passed' "$name" || fail "$name: $(cat "$name" "$name.err")"
  say "$name: passed"
}

# ours NAME TEST FILE QUEUES
ours() {
  local name=$1 test=$2 file=$3 queues=$4 pid status=0
  rm -f socket
  "$server" socket "$file" "$queues" 2>"$name.log" &
  pid=$!
  children+=("$pid")
  wait_until 60 test -S socket || fail "$name: $(cat "$name.log")"
  qemu "$name" "$test" -chardev socket,id=socket,path=socket \
    -device "vhost-user-blk-pci,chardev=socket,num-queues=$queues,disable-legacy=on"
  wait "$pid" || status=$?
  [[ $status -eq 0 ]] || fail "$name: the back end: exit status $status: $(cat "$name.log")"
}

truncate -s 8M qemu.img ours.img
qemu qemus-own disk -drive file=qemu.img,format=raw,if=none,id=disk \
  -device virtio-blk-pci,drive=disk,serial=disk0,disable-legacy=on
has_pattern qemu.img || fail "the judge does not know what QEMU's disk holds"
ours one-queue disk ours.img 1
has_pattern ours.img || fail "other data"
truncate -s 0 ours.img
truncate -s 8M ours.img
! has_pattern ours.img || fail "the judge sees no difference"
ours four-queues disk ours.img 4
has_pattern ours.img || fail "four queues: other data"

truncate -s 8M scsi.img
"$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 --vhost-user scsi.socket scsi.img >scsi.log 2>&1 &
scsi=$!
children+=("$scsi")
wait_until 60 test -S scsi.socket || fail "nas-scsi: $(cat scsi.log)"
for round in first second; do
  qemu "scsi-$round" scsi -chardev socket,id=socket,path=scsi.socket \
    -device "vhost-user-scsi-pci,chardev=socket,num_queues=1,disable-legacy=on"
  has_pattern scsi.img || fail "scsi: other data"
  printf x | dd of=scsi.img bs=1 seek=70000 conv=notrunc status=none
done
! timeout 60 qemu-system-x86_64 -machine q35,memory-backend=ram -accel tcg -m 64 -display none \
  -object memory-backend-file,id=ram,size=64M,share=on,mem-path=unsealed -nodefaults \
  -kernel "$kernel" -append test=scsi -no-reboot -serial file:unsealed.log -chardev socket,id=socket,path=scsi.socket \
  -device vhost-user-scsi-pci,chardev=socket,num_queues=1,disable-legacy=on </dev/null >unsealed.err 2>&1 ||
  ! grep -q passed unsealed.log || fail "memory that can be shortened was taken"
grep -q 'sealed against shrinking' scsi.log || fail "unsealed: $(cat scsi.log)"
# Beside one that is there, an iSCSI initiator is served; and it is no reason not to end.
qemu-system-x86_64 -machine q35,memory-backend=ram -accel tcg -m 64 -S -nodefaults -display none \
  -object memory-backend-memfd,id=ram,size=64M,share=on -chardev socket,id=socket,path=scsi.socket \
  -device vhost-user-scsi-pci,chardev=socket </dev/null >idle.log 2>&1 &
children+=($!)
fourth_came() { [[ $(grep -c "has come" scsi.log) -eq 4 ]]; }
wait_until 60 fourth_came || fail "idle: $(cat scsi.log idle.log)"
iscsi-inq "$(grep ^iscsi: scsi.log)" | grep -q TIDEPOOL || fail "no answer by iSCSI: $(cat scsi.log)"
status=0
kill "$scsi"
wait "$scsi" || status=$?
[[ $status -eq 0 && ! -e scsi.socket ]] || fail "nas-scsi: exit status $status: $(cat scsi.log)"
finish
