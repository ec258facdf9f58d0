#!/bin/bash
# Checkpoints of a chain that is being served: what each holds, under load and
# under kill -9. The judges are flat copies, fio's verification, and a writer that
# knows what was flushed.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

begin
need nbdkit nbdsh qemu-img fio jq
need_space 4096
source "$(dirname "$0")/../lib/chain_server.sh"
rounds=${ROUNDS:-20}

holds() {  # holds LAYER FLAT
  nbdkit -f -U - "$plugin" "$1" --run "qemu-img compare -q -f raw -F raw \"\$uri\" '$2'"
}

"$cowchain" create "$top" --size 256M
truncate -s 256M "$work/flat"

say "each checkpoint holds what was written before it, nothing later"
start
for ((i = 1; i <= 10; i++)); do
  nbdsh -u "$uri" -c "
import random
random.seed($i)
with open('$work/flat', 'r+b') as flat:
    for step in range(200):
        length = random.choice([512, 4096, 20000, 65536])
        offset = random.randrange(h.get_size() - length)
        data = random.randbytes(length) if random.randrange(5) else bytes(length)
        h.pwrite(data, offset)
        flat.seek(offset)
        flat.write(data)
"
  "$cowchain" checkpoint "$top" "cp$i"
  cp --sparse=always "$work/flat" "$work/flat.$i"
done
[[ $("$cowchain" info --json "$top" | jq '.layers | length') -eq 11 ]] || fail "eleven layers expected"
qemu-img compare -q -f raw -F raw "$uri" "$work/flat" || fail "the served disk"
for i in 1 5 10; do holds "$top.cp$i" "$work/flat.$i" || fail "checkpoint $i, while served"; done
stop
for ((i = 1; i <= 10; i++)); do holds "$top.cp$i" "$work/flat.$i" || fail "checkpoint $i"; done
holds "$top" "$work/flat" || fail "the top layer"

say "a second server is refused at once"
start
if timeout 5 nbdkit -U - "$plugin" "$top" --run true 2>"$work/second"; then fail "it serves"; fi
grep -q "in use" "$work/second" || fail "it says: $(cat "$work/second")"

say "fio verifies while checkpoints come"
fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=128m --iodepth=16 \
  --verify=xxhash --verify_fatal=1 --loops=3 >"$work/fio.log" 2>&1 &
load=$!
taken=0
while kill -0 "$load" 2>/dev/null; do
  "$cowchain" checkpoint "$top" "load$taken" || fail "checkpoint $taken under load"
  taken=$((taken + 1))
  sleep 0.05
done
wait "$load" || { cat "$work/fio.log"; fail "fio's verification"; }
[[ $taken -ge 3 ]] || fail "only $taken checkpoints came while fio ran"
say "$taken checkpoints under load"
stop

say "kill -9 while checkpoints come, $rounds times"
for ((round = 1; round <= rounds; round++)); do
  start
  # Writes and flushes its number again and again; tells what was flushed.
  nbdsh -u "$uri" -c "
import struct
number = $round << 32
try:
    while True:
        number += 1
        h.pwrite(struct.pack('<Q', number) * 512, 4096 * (number % 64))
        h.flush()
        print(number, flush=True)
except nbd.Error:
    pass
" >"$work/flushed" 2>/dev/null &
  writer=$!
  for ((i = 0; i < 40; i++)); do
    "$cowchain" checkpoint "$top" "k$round.$i" 2>>"$work/checkpoints.log" || break
  done &
  checkpoints=$!
  sleep "0.$((RANDOM % 5 + 1))"
  stop -9
  wait "$writer" "$checkpoints" || true
  last=$(tail -1 "$work/flushed")
  "$cowchain" info --json "$top" >"$work/info.json" || fail "round $round: the chain does not open"
  jq -e '[.layers[1:][].state] | all(. == "sealed")' "$work/info.json" >/dev/null ||
    fail "round $round: a checkpoint is listed that is not sealed"
  [[ -z $last ]] || nbdkit -f -U - "$plugin" "$top" --run "nbdsh -u \"\$uri\" -c '
import struct
last = $last
for back in range(min(64, last & 0xffffffff)):
    number = last - back
    found = struct.unpack(\"<Q\", h.pread(8, 4096 * (number % 64)))[0]
    assert found == number or found == number + 64, (number, found)
'" || fail "round $round lost what was flushed"
done
finish
