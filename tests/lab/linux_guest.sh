# shellcheck shell=bash
# What the scripts share that run Linux in leanvm: Debian's stock kernel, an initrd that
# reaches a disk, an ext4 image to be the root, and a guest whose console is a pipe.
#
#   source "$(dirname "$0")/linux_guest.sh"
#   begin_guests             $work, as in the harness; /dev/kvm is there
#   make_initrd              initrd.gz: says what it sees, then does what do=WORD asks for
#   make_root root.img SCRIPT...   with busybox, fio and what it needs; do=SCRIPT runs one
#   $guest_modules, $root_programs   more of them, for the initrd and the root
#   start_guest NAME run|restore ARGUMENT...   $guest; prints to NAME; type_line types to it
#   end_guest NAME           it must have turned itself off, or was saved
source "$(dirname "$0")/../lib/harness.sh"

leanvm=$build/vmm/leanvm
cowchain=$build/blockdev/tools/cowchain
bzimage=$build/lab/vmlinuz  # entered in 64-bit mode, unpacks itself
elf=$build/lab/vmlinux      # the same kernel, entered by PVH
line='console=ttyS0 quiet loglevel=3 panic=-1'
root_bytes=$((160 << 20))
guest='' guest_modules=() root_programs=()

begin_guests() {
  modprobe -a fuse loop tun
  if grep -q '^flags.* svm' /proc/cpuinfo; then modprobe kvm_amd; else modprobe kvm_intel; fi
  [[ -c /dev/kvm ]] || fail "no /dev/kvm"
  begin
  need fio e2fsck debugfs nbdkit busybox
  cd "$work"
  export LEANVM_RUN=$work/run
  mkfifo keys
  exec 8<>keys
}

make_initrd() {
  mkdir -p initrd.d/{proc,sys,dev,new}
  cat >initrd.d/init <<'END'
#!/bin/busybox sh
echo "guest: up"
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "guest: cannot load $module"; done
for word in $(cat /proc/cmdline); do case $word in do=*) action=${word#do=} ;; esac; done
disks=
for disk in /sys/block/vd*; do
  disks="$disks ${disk##*/}:$(cat $disk/serial):$(cat $disk/size):$(cat $disk/queue/logical_block_size):$(cat $disk/ro)"
done
echo "guest: cpus $(nproc) disks$disks"
case $action in
  off) poweroff -f ;;
  use)
    dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null
    ip link set eth0 up
    echo "guest: used"
    read word
    poweroff -f
    ;;
  reboot)  # once: the disk knows
    [ "$(head -c 5 /dev/vda)" = again ] && echo "guest: again" && poweroff -f
    printf again | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null
    reboot -f
    ;;
  *)
    mount -t ext4 /dev/vda /new && mount --move /dev /new/dev && mount --move /proc /new/proc &&
      mount --move /sys /new/sys &&
      exec switch_root /new /bin/busybox sh -c "/bin/busybox --install -s /bin; . /$action"
    echo "guest: no root"
    poweroff -f
    ;;
esac
END
  chmod +x initrd.d/init
  "$(dirname "${BASH_SOURCE[0]}")/initrd" initrd.d initrd.gz \
    virtio_pci virtio_mmio virtio_blk virtio_net ext4 crc32c_generic "${guest_modules[@]}"
}

make_root() {  # make_root IMAGE SCRIPT...
  local image=$1 programs
  shift
  mkdir -p root.d/{bin,dev,proc,sys,tmp}
  programs=("$(command -v fio)" "$build/tests/lab/guest_counter" "${root_programs[@]}")
  cp "$(command -v busybox)" "${programs[@]}" root.d/bin/
  ldd "${programs[@]}" | grep -o '[^( ]*/lib[^ ]*' | sort -u | xargs cp -L --parents -t root.d
  cp "$@" root.d/
  truncate -s "$root_bytes" "$image"
  mke2fs -q -t ext4 -b 4096 -d root.d "$image"
}

start_guest() {  # start_guest NAME run|restore ARGUMENT...
  local name=$1
  shift
  timeout "${guest_seconds:-1200}" "$leanvm" "$@" <&8 >>"$name" 2>>"$name.err" &
  guest=$!
  children+=("$guest")
}

run_guest() {  # run_guest NAME KERNEL CPUS WORD [ARGUMENT...]
  local name=$1 kernel=$2 cpus=$3 word=$4
  shift 4
  : >"$name"
  start_guest "$name" run --name "$name" --kernel "$kernel" --initrd initrd.gz --memory 256M \
    --cpus "$cpus" --cmdline "$line do=$word" "$@"
}

type_line() { printf '%s\n' "$1" >&8; }

shown() { tail -n 30 "$1" | tr -d '\r'; tail -n 10 "$1.err"; }
says() { grep -aq "^guest: $2" "$1"; }
says_or_ended() { says "$@" || ! kill -0 "$guest" 2>/dev/null; }
wait_for_guest() {  # wait_for_guest NAME WORDS
  wait_until 900 says_or_ended "$1" "$2" || fail "$1: no '$2' in 900 s: $(shown "$1")"
  says "$1" "$2" || fail "$1: ended without '$2': $(shown "$1")"
}
end_guest() {  # end_guest NAME
  local status=0 kept=() entry
  wait "$guest" || status=$?
  [[ $status -eq 0 ]] || fail "$1: exit status $status: $(shown "$1")"
  for entry in "${children[@]}"; do [[ $entry == "$guest" ]] || kept+=("$entry"); done
  children=("${kept[@]}")
}
