#!/bin/bash
# An elastic disk on a kernel whose page cache does not see direct writes (Linux before
# 6.6, such as Debian 12's): who opens the disk afterwards reads what was written.
source "$(dirname "$0")/../lib/harness.sh"
modprobe fuse
begin
create_pool 64M
mount_pool
make_disk vm1/a.img 1M
dd if=/dev/zero bs=64k count=16 of="$disk" status=none
sync "$disk"
cmp -n $((1 << 20)) "$disk" /dev/zero  # now the cache has it
dd if=/dev/urandom of="$work/new" bs=64k count=16 status=none
dd if="$work/new" of="$disk" bs=64k oflag=direct conv=notrunc status=none
cmp "$work/new" "$disk" || fail "the page cache shows what direct writes replaced"
finish
