#!/bin/bash
# A chain whose base is an NBD export, while the base's server goes away and comes
# back. The judge is a flat file that is changed alike.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"

begin
need nbdkit nbdinfo nbdsh nbdcopy qemu-img jq
need_space 512
export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$build/blockdev/tools/cowchain
base=$work/base.img flat=$work/flat.img top=$work/disk.layer
base_uri="nbd+unix:///?socket=$work/base.socket" uri="nbd+unix:///?socket=$work/socket"
rounds=${ROUNDS:-5}

expect_error() {  # expect_error TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/error.log" 2>&1; then fail "'$*' succeeded"; fi
  grep -q -- "$text" "$work/error.log" || fail "'$*' says: $(cat "$work/error.log")"
}
serve_base() {
  serve_nbd "$base_uri" -r "$@"
  base_server=$server
}
same() { qemu-img compare -q -f raw -F raw "$uri" "$flat"; }

head -c 24M /dev/urandom >"$base"
truncate -s 60M "$base"
head -c 4M /dev/urandom >>"$base"
cp --sparse=always "$base" "$flat"

say "it takes the export's size and refers to it"
serve_base file "$base"
"$cowchain" create "$top" --base "$base_uri"
"$cowchain" info --json "$top" | jq -e --arg uri "$base_uri" \
  '.size == 67108864 and .base.file == $uri and .base.size == 67108864' >/dev/null || fail "info"

say "reads show the base, writes stay above it"
serve_nbd "$uri" "$plugin" "$top"
chain_server=$server
same || fail "an empty layer over the export"
nbdsh -u "$uri" -c "
import random
random.seed(5)
with open('$flat', 'r+b') as flat:
    for step in range(300):
        length = random.choice([1, 512, 4096, 5000, 65536])
        offset = random.randrange(h.get_size() - length)
        data = random.randbytes(length)
        h.pwrite(data, offset)
        flat.seek(offset)
        flat.write(data)
h.flush()
"
same || fail "after writes"

say "reads stall while the base is away, and go on"
stop_nbd "$base_server"
nbdcopy "$uri" "$work/copy" >"$work/nbdcopy.log" 2>&1 &
reader=$!
children+=("$reader")
sleep 1
kill -0 "$reader" 2>/dev/null || fail "a read without the base ended: $(cat "$work/nbdcopy.log")"
serve_base file "$base"
wait "$reader" || fail "a stalled read: $(cat "$work/nbdcopy.log")"
cmp "$work/copy" "$flat" || fail "the copy over a restart"

say "the base is killed $rounds times while it is read"
for ((round = 1; round <= rounds; round++)); do
  rm -f "$work/copy"
  nbdcopy "$uri" "$work/copy" >"$work/nbdcopy.log" 2>&1 &
  reader=$!
  sleep "0.0$((RANDOM % 9 + 1))"
  stop_nbd "$base_server"
  serve_base file "$base"
  wait "$reader" || fail "round $round: $(cat "$work/nbdcopy.log")"
  cmp "$work/copy" "$flat" || fail "round $round: not what was there"
done
same || fail "after all restarts"
stop_nbd "$chain_server"

say "refusals name what is wrong"
expect_error "from the root on" "$cowchain" create "$work/x.layer" --base "nbd+unix:///?socket=base.socket"
stop_nbd "$base_server"
expect_error "cannot connect to '$base_uri'" "$cowchain" info "$top"
expect_error "cannot connect to '$base_uri'" "$cowchain" create "$work/x.layer" --base "$base_uri"
[[ ! -e $work/x.layer ]] || fail "a refused layer was left behind"
serve_base memory 1M
expect_error "its size was changed since" "$cowchain" info "$top"
stop_nbd "$base_server"
finish
