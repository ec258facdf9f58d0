#!/bin/bash
# Debian's stock kernel, unmodified, inside leanvm on a real KVM: to user space with one
# and four vCPUs, from an initrd and from a disk, with each kind of disk. What the guest
# wrote is read on the outside, what it read was written there.
set -euo pipefail
build=${TIDEPOOL_BUILD:?names the build directory}
leanvm=$build/vmm/leanvm
cowchain=$build/blockdev/tools/cowchain
bzimage=$build/lab/vmlinuz  # entered in 64-bit mode
elf=$build/lab/vmlinux      # the same kernel, entered by PVH
work=$(mktemp -d)
children=()
clean_up() {
  status=$?
  for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
cd "$work"

fail() {
  echo "FAILED: $*"
  exit 1
}

modprobe -a loop
if grep -q '^flags.* svm' /proc/cpuinfo; then modprobe kvm_amd; else modprobe kvm_intel; fi
[[ -c /dev/kvm ]] || fail "no /dev/kvm"

# The guest's first root: busybox, the modules that reach a disk, and what to do.
mkdir -p initrd/{bin,modules,proc,sys,dev,new}
cp "$(command -v busybox)" initrd/bin/busybox
for module in virtio_pci virtio_blk virtio_console ext4 crc32c_generic; do
  modprobe --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >order
while IFS= read -r file; do
  cp "$file" initrd/modules/
  echo "${file##*/}"
done <order >initrd/modules/order
cat >initrd/init <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "cannot load $module"; done
for word in $(cat /proc/cmdline); do case $word in do=*) action=${word#do=} ;; esac; done
echo "guest: cpus $(nproc) disks $(ls /sys/block | tr '\n' ' ')"
case $action in
  root)
    mount -t ext4 /dev/vda /new && mount --move /dev /new/dev && mount --move /proc /new/proc &&
      exec switch_root /new /bin/busybox sh /start
    ;;
  reboot) reboot -f ;;
esac
poweroff -f
END
chmod +x initrd/init
(cd initrd && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz

# guest NAME KERNEL ARGUMENT...: runs it; its output is in $work/NAME.
guest() {
  local name=$1 kernel=$2 begun=$SECONDS status=0
  shift 2
  timeout 300 "$leanvm" run --kernel "$kernel" --initrd initrd.gz --memory 256M "$@" \
    </dev/null >"$name" 2>"$name.err" || status=$?
  [[ $status -eq 0 ]] || { grep -a "guest:" "$name" || true; tail -30 "$name"; cat "$name.err"; fail "$name: exit status $status"; }
  echo "$name: $((SECONDS - begun)) seconds"
}
line="console=ttyS0 quiet loglevel=3 panic=-1"

guest one "$bzimage" --no-reboot --cmdline "$line do=reboot"
grep -q '^guest: cpus 1 ' one || fail "$(tail one)"

# The root disk lies in a pool, reached by FUSE; beside it a chain, an NBD export and a
# raw file, each to be filled by the guest with what its root disk has in a file.
head -c 8M /dev/urandom >content
mkdir -p root/{bin,dev,proc,new}
cp "$(command -v busybox)" root/bin/busybox
cp content root/content
cat >root/start <<'END'
/bin/busybox --install -s /bin
export PATH=/bin
for disk in vdb vdc vdd; do
  dd if=/content of=/dev/$disk bs=64k conv=fsync 2>/dev/null || echo "guest: cannot write $disk"
done
echo 3 >/proc/sys/vm/drop_caches
for disk in vdb vdc vdd; do
  cmp -s -n 8388608 /content /dev/$disk && echo "guest: $disk is the same"
done
dd if=/dev/zero of=/dev/vde bs=512 count=1 2>/dev/null && sync /dev/vde && echo "guest: wrote what it must not"
dd if=/dev/urandom of=/large bs=64k count=256 conv=fsync 2>/dev/null && sync
rm /large && sync && fstrim / && echo "guest: trimmed"
cp /content /copy && sync && umount /proc 2>/dev/null
mount -o remount,ro / && echo "guest: done"
poweroff -f
END
modprobe -a fuse
"$build/fs/tools/elasticctl" create pool --size 512M >/dev/null
mkdir elastic
"$build/fs/fuse/elasticfs" pool elastic -f >elasticfs.log 2>&1 &
children+=($!)
until mountpoint -q elastic; do sleep 0.1; done
mkdir elastic/vm1
truncate -s 96M elastic/vm1/root.img
mke2fs -q -t ext4 -d root elastic/vm1/root.img
sync elastic/vm1/root.img
pool_bytes() { echo $(($(stat -c %b pool) * 512)); }
before=$(pool_bytes)
"$cowchain" create disk.layer --size 8M
truncate -s 8M raw.img nbd.img sealed.img
nbdkit --foreground --unix "$work/nbd.socket" file nbd.img &
children+=($!)
until [[ -S nbd.socket ]]; do sleep 0.1; done
guest four "$elf" --cpus 4 --cmdline "$line do=root" --disk elastic/vm1/root.img,raw,queues=4 \
  --disk disk.layer --disk "nbd+unix:///?socket=$work/nbd.socket" --disk raw.img,raw --disk sealed.img,raw,ro
grep -q '^guest: cpus 4 ' four || fail "$(cat four)"
for word in 'vdb is the same' 'vdc is the same' 'vdd is the same' 'trimmed' 'done'; do
  grep -q "guest: $word" four || fail "no '$word': $(cat four)"
done
! grep -q 'wrote what it must not' four || fail "a read-only disk was written"
"$cowchain" flatten disk.layer disk.img --raw
for file in disk.img nbd.img raw.img; do
  cmp "$file" content || fail "$file is not what the guest wrote"
done
cmp -n 512 sealed.img /dev/zero || fail "a read-only disk was written"
e2fsck -fn elastic/vm1/root.img >/dev/null || fail "the root file system is damaged"
debugfs -R "dump /copy copy" elastic/vm1/root.img 2>/dev/null
cmp copy content || fail "the root disk is not what the guest wrote"
for ((i = 0; i < 100; i++)); do
  grown=$(($(pool_bytes) - before))
  [[ $grown -lt $((12 << 20)) ]] && break
  sleep 0.1
done
echo "pool: grown by $((grown >> 10)) KiB after 24 MiB written, 16 MiB of them deleted and trimmed"
[[ $grown -lt $((12 << 20)) ]] || fail "what the guest trimmed is not given back"
umount elastic
