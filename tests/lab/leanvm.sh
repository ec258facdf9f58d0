#!/bin/bash
# Debian's stock kernel, unmodified, in leanvm on a real KVM: to user space with one and
# four processors from an initrd, which finds five disks; it resets, and turns itself off.
# Then with its root on a disk: in the guest fio verifies what it wrote; what the guest
# trims its disk gives back; e2fsck and a comparison judge the disk from outside.
#
# KINDS: of disks, some of file, fuse (an elastic disk), socket (the same by vhost-user),
# chain and nbd; the first four unless given. MATRIX=long: each of them with one and four processors
# and with each way to boot.
source "$(dirname "$0")/linux_guest.sh"
begin_guests
took() { say "$SECONDS s: $1"; }
make_initrd

# Each disk that was given is found, at its place: by name, sectors, block, read-only.
took "five disks"
"$cowchain" create five.layer --size 8M
truncate -s 9M one.img
truncate -s 10M nbd.img
truncate -s 11M raw.img
truncate -s 12M sealed.img
serve_nbd() {  # serve_nbd FILE: $nbd, its URI
  nbd="nbd+unix:///?socket=$work/$1.socket"
  nbdkit --foreground --unix "$work/$1.socket" file "$1" 2>>nbdkit.log &
  children+=($!)
  wait_until 60 test -S "$work/$1.socket" || fail "nbdkit: $(cat nbdkit.log)"
}
serve_nbd nbd.img
run_guest initrd "$bzimage" 1 off --disk one.img,raw,queues=4 --disk five.layer --disk "$nbd" \
  --disk raw.img,raw --disk sealed.img,raw,ro
end_guest initrd
sectors=2048  # of a MiB
wait_for_guest initrd "cpus 1 disks vda:disk0:$((9 * sectors)):512:0 vdb:disk1:$((8 * sectors)):512:0 vdc:disk2:$((10 * sectors)):512:0 vdd:disk3:$((11 * sectors)):512:0 vde:disk4:$((12 * sectors)):512:1"

took "a reset, and power-off"
truncate -s 1M mark.img
run_guest reboot "$elf" 4 reboot --disk mark.img,raw
end_guest reboot
wait_for_guest reboot again
[[ $(grep -ac '^guest: cpus 4 ' reboot) -eq 2 ]] || fail "not booted twice: $(shown reboot)"

took "a root file system"
head -c 4M /dev/urandom >content
cat >verify <<'END'
export PATH=/bin
fio --name=v --filename=/work --size=8m --bsrange=4k-64k --rw=randwrite --ioengine=libaio \
  --iodepth=8 --direct=1 --verify=xxhash --verify_fatal=1 --thread --disk_util=0 >/tmp/log 2>&1 &&
  echo "guest: verified" || cat /tmp/log
cmp /content /content.before && cp /content /copy && sync && echo "guest: full"
read word
rm /work && sync && fstrim / && echo "guest: trimmed"
mount -o remount,ro / && echo "guest: done"
poweroff -f
END
cp content content.before
make_root root.img verify content content.before
say "its image: $(du -m root.img | cut -f1) MiB"

create_pool 1G
modprobe -a fuse
mkdir sockets
mount_pool "vhost-user-dir=$work/sockets"
mkdir "$mount/vm1"
for disk in file.img nbd-root.img "$mount/vm1/fuse.img" "$mount/vm1/socket.img"; do
  cp --sparse=always root.img "$disk"
done
sync "$mount"/vm1/*
"$cowchain" create root.layer --base root.img
serve_nbd nbd-root.img

bytes_of() { echo $(($(stat -c %b "$1") * 512)); }
# used KIND: bytes that its disk takes from whoever provides them.
used() {
  case $1 in
    file) bytes_of file.img ;;
    fuse | socket) bytes_of "$pool" ;;
    chain) bytes_of root.layer ;;
    nbd) bytes_of nbd-root.img ;;
  esac
}
# image KIND: the disk as a raw file.
image() {
  case $1 in
    file) echo file.img ;;
    fuse | socket) echo "$mount/vm1/$1.img" ;;
    chain)
      "$cowchain" flatten root.layer flat.img --raw >flatten.log 2>&1
      echo flat.img
      ;;
    nbd) echo nbd-root.img ;;
  esac
}
declare -A argument=(
  [file]=file.img,raw
  [fuse]=$mount/vm1/fuse.img,raw
  [socket]=vhost-user=$work/sockets/vm1/socket.img
  [chain]=root.layer
  [nbd]=$nbd
)

is_lower() { [[ $(used "$1") -le $2 ]]; }
boot_from() {  # boot_from KIND CPUS KERNEL
  local kind=$1 cpus=$2 kernel=$3 name=$1-$2-${3##*/} full disk
  took "root on $kind, $cpus processors, ${kernel##*/}"
  run_guest "$name" "$kernel" "$cpus" verify --disk "${argument[$kind]},queues=$cpus"
  wait_for_guest "$name" full
  says "$name" "cpus $cpus disks vda:" && says "$name" verified || fail "$name: $(shown "$name")"
  full=$(used "$kind")
  type_line go
  wait_for_guest "$name" done
  end_guest "$name"
  says "$name" trimmed || fail "$name: $(shown "$name")"
  # 8 MiB were deleted; the file system writes a little meanwhile.
  wait_until 60 is_lower "$kind" $((full - (6 << 20))) ||
    fail "$name: the disk took $full bytes and takes $(used "$kind") after the trim"
  rm -f flat.img
  disk=$(image "$kind")
  e2fsck -fn "$disk" >fsck.log 2>&1 || fail "$name: $(head -n 20 fsck.log)"
  debugfs -R "dump /copy copy" "$disk" 2>/dev/null
  cmp copy content || fail "$name: what the guest wrote is not on its disk"
  say "$name: verified; trimmed: $((full - $(used "$kind"))) bytes less"
}
if [[ ${MATRIX:-} == long ]]; then
  for kind in file fuse socket chain nbd; do
    for cpus in 1 4; do
      for kernel in "$bzimage" "$elf"; do boot_from "$kind" "$cpus" "$kernel"; done
    done
  done
else
  for kind in ${KINDS:-file fuse socket chain}; do boot_from "$kind" 1 "$elf"; done
fi
finish "passed in $SECONDS s"
