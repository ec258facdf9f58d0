#!/bin/bash
# Linux in QEMU starts again and again on one nas-scsi by vhost-user: how many of the boots find
# their two disks and read them. Any that stands still fails; then the ends of what guest and
# server said are printed. A machine as the lab's, but small: its root is busybox.
#
# BOOTS: how many (20). SECONDS_OF_BOOT: when one counts as standing still (180).
set -euo pipefail
here=$(dirname "$(realpath "$0")")
build=$(realpath "${TIDEPOOL_BUILD:?names the build directory}")
source "$here/../lib/iscsi_suite.sh"
boots=${BOOTS:-20} seconds=${SECONDS_OF_BOOT:-180}

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

suite_needs qemu-system-x86_64 busybox modprobe
cache=$build/lab
[[ -s $cache/version ]] || "$here/lab" /bin/true >/dev/null || exit $? # gets the kernel
work=$(mktemp -d "${TMPDIR:-/tmp}/tidepool-scsi-boots.XXXXXX")
clean_up() {
  stop_server || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM

mkdir -p "$work"/initrd/{bin,modules,proc,sys,dev}
cp "$(command -v busybox)" "$work/initrd/bin/busybox"
for module in virtio_pci virtio_scsi sd_mod; do
  modprobe --dirname "$cache" --set-version "$(cat "$cache/version")" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/modules"
while IFS= read -r file; do
  cp "$file" "$work/initrd/modules/"
  echo "${file##*/}"
done <"$work/modules" >"$work/initrd/modules/order"
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
echo "guest: modules"
until [ -b /dev/sda ] && [ -b /dev/sdb ]; do sleep 0.1; done
dd if=/dev/sda of=/dev/null bs=64k count=64 2>/dev/null &&
  dd if=/dev/sdb of=/dev/null bs=64k count=64 2>/dev/null && echo "guest: read its disks"
poweroff -f
INIT
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd.gz"

accelerator=tcg,thread=multi
if [[ -w /dev/kvm ]] && grep -qE '^flags.* (svm|vmx)( |$)' /proc/cpuinfo; then accelerator=kvm; fi
boot() {  # boot LOG: what QEMU's end was
  timeout "$seconds" qemu-system-x86_64 -machine q35,memory-backend=ram -accel "$accelerator" -cpu max -smp 2 -m 256 \
    -object memory-backend-memfd,id=ram,size=256M -nodefaults -display none -no-reboot -serial stdio \
    -kernel "$cache/vmlinuz" -initrd "$work/initrd.gz" -append "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check" \
    -chardev "socket,id=scsi,path=$work/socket" -device vhost-user-scsi-pci,chardev=scsi,num_queues=2 \
    </dev/null >"$1" 2>&1
}

truncate -s 96M "$work/first.img"
truncate -s 16M "$work/second.img"
serve_vhost_user "$work/socket" "$work/first.img" "$work/second.img" || fail "nas-scsi did not start"
came=0 longest=0
for ((number = 1; number <= boots; number++)); do
  status=0 begun=$SECONDS
  boot "$work/guest.log" || status=$?
  if [[ $status -eq 0 ]] && grep -aq '^guest: read its disks' "$work/guest.log"; then
    came=$((came + 1))
    [[ $((SECONDS - begun)) -le $longest ]] || longest=$((SECONDS - begun))
  else
    echo "boot $number stood still or failed, exit status $status: $(tail -n 20 "$work/guest.log" | tr -d '\r')"
    tail -n 5 "$work/server.log"
  fi
done
stop_server || fail "the server did not end well: $(cat "$work/server.log")"
echo "$came of $boots boots came up, the slowest in $longest s"
[[ $came -eq $boots ]]
