#!/bin/bash
# Random operations on disks of a mount against an oracle: cached, and mixed with
# O_DIRECT. OPS is the number of operations per mode, SIZE the disk's.
source "$(dirname "$0")/../lib/harness.sh"
fsx=$build/tests/conformance/fsx_elastic
ops=${OPS:-100000} size=${SIZE:-16M}

begin
choose_seed
create_pool 1G
mount_pool
make_vm vm1
"$fsx" "$vm/cached.img" --ops "$ops" --seed "$seed" --size "$size"
"$fsx" "$vm/mixed.img" --ops "$ops" --seed "$seed" --size "$size" --direct
# A disk much larger than its data, in small pieces.
"$fsx" "$vm/wide.img" --ops $((ops / 10)) --seed "$seed" --size 64M --length 16K --direct
rm "$vm"/*.img
wait_until 10 [ "$(figure used_bytes)" = 0 ] || true
[[ $(figure used_bytes) == 0 ]] || fail "$(figure used_bytes) bytes are held by no disk"
unmount_pool
check_clean
finish
