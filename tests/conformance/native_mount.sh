#!/bin/bash
# Each system call in a VM directory against the same call on the plain file system
# that holds the pool.
source "$(dirname "$0")/../lib/harness.sh"

begin
create_pool 1G
mount_pool
mkdir "$work/plain"
"$build/tests/conformance/native_compare" "$mount" "$work/plain"
unmount_pool
check_clean
finish
