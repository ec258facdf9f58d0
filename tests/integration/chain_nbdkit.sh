#!/bin/bash
# The cowchain plugin in the real nbdkit, against other people's clients: libnbd's
# shell, nbdcopy, nbdinfo, qemu-img, fio. The judge is a flat file that is changed
# alike, and fio's own verification.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

begin
need nbdkit nbdsh nbdcopy nbdinfo qemu-img fio jq
need_space 2048
export PATH=/usr/bin:$PATH  # the python that nbdsh's module belongs to
cowchain=$TIDEPOOL_BUILD/blockdev/tools/cowchain
plugin=$TIDEPOOL_BUILD/blockdev/nbdkit/nbdkit-cowchain-plugin.so
top=$work/disk.layer flat=$work/flat.img
mebibytes=${MIB:-256}

serve() {  # serve COMMAND: runs it with $uri set
  nbdkit -f -U - "$plugin" "$top" --run "$1"
}
is_same() { serve "qemu-img compare -q -f raw -F raw \"\$uri\" '$flat'"; }
same() {  # the chain shows what the flat file holds
  is_same || fail "$1: not what the flat file holds"
}

"$cowchain" create "$top" --size "${mebibytes}M"
truncate -s "${mebibytes}M" "$flat"
same "an empty chain"

# The same on both: on the chain by NBD, on the flat file by nbdkit's own plugin.
changes=$(realpath "$(dirname "$0")/../lib/disk_changes.py")
change_both() {
  local -x CHANGES=$1 CHANGE_STEPS=3000
  serve "nbdsh -u \"\$uri\" -c - <'$changes'" || fail "changes with seed $1"
  nbdkit -f -U - file "$flat" --run "nbdsh -u \"\$uri\" -c - <'$changes'" || fail "nbdkit's own"
}
say "changes and checkpoints"
for round in 1 2 3; do
  change_both "$round"
  same "round $round"
  cp --sparse=always "$flat" "$work/flat.$round"
  "$cowchain" checkpoint "$top" "cp$round"
  same "after checkpoint $round"
done
change_both 4
same "above all checkpoints"
for round in 1 2 3; do
  top=$top.cp$round
  ! is_same || fail "checkpoint $round shows later changes"
  flat=$work/flat.$round
  same "checkpoint $round"
  top=$work/disk.layer flat=$work/flat.img
done
[[ $("$cowchain" info "$top" --json | jq '.layers | length') -eq 4 ]] || fail "four layers expected"

say "a trim leaves a hole in the block status and reads as zeros"
serve 'nbdsh -u "$uri" -c "
h.trim(64 << 20, 0)
assert h.pread(1 << 20, 5 << 20) == bytes(1 << 20)
h.flush()
"'
serve 'nbdinfo --map --json "$uri"' >"$work/map.json"
jq -e '.[0] | .offset == 0 and .length >= 67108864 and .type == 3' "$work/map.json" >/dev/null ||
  fail "the trimmed range is not a hole: $(head -c 300 "$work/map.json")"

say "copies by nbdcopy and qemu-img, both ways"
serve "nbdcopy \"\$uri\" $work/out.img"
serve "qemu-img compare -q -f raw -F raw \"\$uri\" $work/out.img" || fail "nbdcopy out"
"$cowchain" create "$work/in.layer" --size "${mebibytes}M"
top=$work/in.layer flat=$work/out.img
serve "nbdcopy $work/out.img \"\$uri\""
same "nbdcopy in"
serve "qemu-img convert -f raw -O qcow2 \"\$uri\" $work/out.qcow2"
qemu-img compare -q -f qcow2 -F raw "$work/out.qcow2" "$flat" || fail "qemu-img convert out"
"$cowchain" create "$work/in2.layer" --size "${mebibytes}M"
top=$work/in2.layer
serve "qemu-img convert -n -f qcow2 -O raw $work/out.qcow2 \"\$uri\""
same "qemu-img convert in"

say "fio verifies over several connections"
top=$work/disk.layer
serve "fio --name=v --ioengine=nbd --uri=\"\$uri\" --rw=randwrite --bs=4k --size=64m --iodepth=16 \
  --verify=xxhash --verify_fatal=1 --numjobs=2 --offset_increment=64m --group_reporting" \
  >"$work/fio.log" 2>&1 || { cat "$work/fio.log"; fail "fio's verification"; }

say "what a flush acknowledged outlives kill -9"
mkdir "$work/run"
for round in 1 2 3 4 5; do
  nbdkit -f -U "$work/run/socket" "$plugin" "$top" 2>"$work/nbdkit.log" &
  server=$!
  children+=("$server")
  wait_until 10 test -S "$work/run/socket" || fail "nbdkit: $(cat "$work/nbdkit.log")"
  nbdsh -u "nbd+unix:///?socket=$work/run/socket" -c "
import random
random.seed($round)
for i in range(200):
    h.pwrite(random.randbytes(4096), 4096 * i)
h.flush()
for i in range(50):
    h.pwrite(bytes([$round]) * 4096, (100 << 20) + 4096 * i)
"
  kill -9 "$server"
  wait "$server" 2>/dev/null || true
  rm -f "$work/run/socket"
  serve "nbdsh -u \"\$uri\" -c '
import random
random.seed($round)
for i in range(200):
    assert h.pread(4096, 4096 * i) == random.randbytes(4096), i
'" || fail "round $round lost what was flushed"
done
children=()

say "refusals name what is wrong"
expect_error() {  # expect_error TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/error.log" 2>&1; then fail "'$*' succeeded"; fi
  grep -q -- "$text" "$work/error.log" || fail "'$*' says: $(cat "$work/error.log")"
}
expect_error "is not a layer" "$cowchain" info "$flat"
expect_error "needs --size" "$cowchain" create "$work/none.layer"
expect_error "File exists" "$cowchain" create "$top" --size 1M
cp --sparse=always "$work/disk.layer.cp3" "$work/kept"
"$cowchain" create "$work/other.layer" --size "${mebibytes}M"
mv "$work/other.layer" "$work/disk.layer.cp3"
expect_error "is not the parent it was made on" "$cowchain" info "$top"
mv "$work/kept" "$work/disk.layer.cp3"
"$cowchain" info "$top" >/dev/null
truncate -s 1M "$work/in.layer"
expect_error "was cut off" "$cowchain" info "$work/in.layer"
finish
