#!/bin/bash
# elasticctl grow on a live mount while fio writes and verifies: no error, and the
# new space is there for writers that had none.
source "$(dirname "$0")/../lib/harness.sh"
stamp=$build/tests/integration/stamp

begin
need fio jq
need_space 1800
choose_seed
create_pool 512M
mount_pool
for i in 1 2; do make_disk "vm$i/load.img" 128M; done
fio --size=128M --time_based --runtime="${RUNTIME:-12}" --rw=randrw --bsrange=4k-64k \
  --ioengine=libaio --iodepth=8 --direct=1 --verify=xxhash --verify_fatal=1 --verify_backlog=64 \
  --randseed="$seed" --output="$work/fio.log" \
  --name=a --filename="$mount/vm1/load.img" --name=b --filename="$mount/vm2/load.img" &
fio_pid=$!
children+=($fio_pid)
make_disk vm3/more.img 4G
for size in 640M 700M 800M 1G 1536M; do
  sleep 1
  before=$(figure data_bytes)
  "$elasticctl" grow "$mount" --size "$size" || fail "grow to $size"
  [[ $(figure data_bytes) -gt $before ]] || fail "grown to $size, but no more data space"
done
"$stamp" write "$disk" --tag more --length 1000M --direct
"$stamp" verify "$disk" --tag more --length 1000M
children=()
wait $fio_pid || { cat "$work/fio.log" >&2; fail "fio saw an error while the pool grew"; }
status=0
"$elasticctl" grow "$mount" --size 600M >"$work/shrink.log" 2>&1 || status=$?
[[ $status -eq 1 ]] || fail "shrinking must be refused with exit 1, not $status"
unmount_pool
check_clean
mount_pool
"$stamp" verify "$disk" --tag more --length 1000M
unmount_pool
# Offline, too.
"$elasticctl" grow "$pool" --size 1700M
check_clean
finish
