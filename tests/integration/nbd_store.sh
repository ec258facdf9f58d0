#!/bin/bash
# NBD exports as stores, on the real nbdkit in many shapes: what remote_load read and
# wrote is compared by itself and with what the server has in its file. Then servers
# that lose what was not flushed are killed and restarted under load. The judge of
# the replay is a twin without it, which must go red.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"

begin
need nbdkit nbdinfo qemu-img cmp openssl
need_space 1024
export PATH=/usr/bin:$PATH
load=$TIDEPOOL_BUILD/tests/integration/remote_load
cowchain=$TIDEPOOL_BUILD/blockdev/tools/cowchain
socket=$work/socket uri="nbd+unix:///?socket=$work/socket"
rounds=${ROUNDS:-10} operations=${OPS:-400} size=64M
export COWCHAIN_RUN=$work/run
start() { serve_nbd "$uri" "$@"; }
stop() { stop_nbd "$server"; }
log_says() { grep -q -- "$1" "$work/load.log"; }

say "random requests, by each kind of server"
conforms() {  # conforms FILTERS [PARAMETERS]: of the file plugin
  echo "  $*"
  truncate -s 0 "$work/flat"
  truncate -s "$size" "$work/flat"
  # shellcheck disable=SC2086  # several words each
  start $1 file "$work/flat" ${2:-}
  "$load" "$uri" --ops "$operations" --save "$work/copy" >"$work/load.log" 2>&1 ||
    fail "$*: $(tail -n 3 "$work/load.log")"
  stop
  cmp "$work/flat" "$work/copy" || fail "$*: the server's file differs"
}
# Its tracking forgets writes that end while a flush goes on.
not_multi="multi-conn-mode=disable multi-conn-track-dirty=off"
conforms ""
conforms --filter=multi-conn "$not_multi"
conforms --filter=nozero zeromode=none
conforms --filter=nozero zeromode=notrim
conforms --filter=noextents
conforms --filter=fua  # none
conforms --filter=fua fuamode=emulate
conforms --filter=blocksize-policy \
  "blocksize-minimum=4096 blocksize-preferred=4096 blocksize-maximum=16384 blocksize-error-policy=error"
conforms --no-sr
start memory "$size"
"$load" "$uri" --ops "$operations" >"$work/load.log" 2>&1 || fail "memory: $(cat "$work/load.log")"
stop

say "TLS"
if [[ $(nbdkit --dump-config) == *tls=yes* ]]; then
  plain=$uri keys=$work/keys.psk
  echo "tide:$(openssl rand -hex 32)" >"$keys"
  uri="nbds+unix://tide@/?socket=$socket&tls-psk-file=$keys"
  conforms "--tls=require --tls-psk=$keys"
  conforms "--tls=require --tls-psk=$keys --filter=multi-conn" "$not_multi"
  start --tls=require --tls-psk="$keys" memory 1M
  ! "$load" "$plain" >"$work/load.log" 2>&1 || fail "a server with TLS served one without"
  log_says "'$plain': .*requires TLS" || fail "without TLS: $(cat "$work/load.log")"
  stop
  uri=$plain
else
  say "  (nbdkit has none)"
fi

say "servers that lose what is not flushed, killed $rounds times under load"
chain=$work/disk.layer
fresh_disk() {
  rm -f "$chain" "$work/flat"
  "$cowchain" create "$chain" --size "$size"
  truncate -s "$size" "$work/flat"
}
# Each serves one of these two; what is on it when all was flushed is judged by
# holds_copy, after one more kill.
serve_chain() { start "$plugin" "$chain"; }
serve_chain_once() { start --filter=multi-conn "$plugin" "$chain" $not_multi; }  # one connection
serve_cache() { start --filter=cache file "$work/flat" cache=writeback; }
holds_copy() {
  serve_chain
  if [[ $1 == serve_cache ]]; then stop; start file "$work/flat"; fi
  qemu-img compare -q -f raw -F raw "$uri" "$work/copy"
  stop
}
# under_fire SERVE ROUNDS OPTION...: the load while the server is killed that often; its status.
under_fire() {
  local serve=$1 times=$2 round status=0
  shift 2
  fresh_disk
  rm -f "$work/enough"
  "$serve"
  "$load" "$uri" --until "$work/enough" --save "$work/copy" "$@" >"$work/load.log" 2>&1 &
  local writer=$!
  children+=("$writer")
  for ((round = 0; round < times; round++)); do
    sleep "0.$((RANDOM % 6 + 3))"
    kill -0 "$writer" 2>/dev/null || break
    stop
    "$serve"
  done
  touch "$work/enough"
  wait "$writer" || status=$?
  stop
  return "$status"
}
survives() {
  local serve=$1
  under_fire "$@" || fail "$*: $(tail -n 4 "$work/load.log")"
  holds_copy "$serve" || fail "$*: what was flushed is not there"
  say "  $*: $(grep -c 'connected again' "$work/load.log") new connections," \
    "$(sed -n 's/.* ms; \([0-9]*\) unflushed.*/\1/p' "$work/load.log" | paste -sd+ | bc) changes sent again"
  log_says "connected again" || fail "$*: no kill was noticed"
}
survives serve_chain "$rounds"
survives serve_chain_once "$rounds"
survives serve_cache "$rounds"
# The store's own flushes, and large requests in pieces.
survives serve_chain "$((rounds / 2 + 1))" --keep 1M --flush-one-in 1000000 --most 2M

say "without the replay it is red"
for serve in serve_chain serve_chain_once serve_cache; do
  red=no
  for ((try = 0; try < 5 && ${#red} < 3; try++)); do
    under_fire "$serve" 4 --forget-unflushed --flush-one-in 1000000 || red=yes
  done
  [[ $red == yes ]] || fail "$serve: nothing was lost without the replay: the test sees nothing"
  log_says "after .* operations\|the part at" || fail "red for another reason: $(cat "$work/load.log")"
done

say "closing needs no server; giving up does what it says"
fresh_disk
serve_chain
coproc LOAD { exec "$load" "$uri" --wait-before-close 2>"$work/load.log"; }
loader=$LOAD_PID
exec {answer}<&"${LOAD[0]}" {order}>&"${LOAD[1]}"
read -r _ <&"$answer" && read -r ready <&"$answer"
[[ $ready == ready ]] || fail "closing: $(cat "$work/load.log")"
stop
echo close >&"$order"
wait_until 10 eval "! kill -0 $loader 2>/dev/null" || fail "closing hangs without a server"

serve_chain
"$load" "$uri" --until "$work/never" --give-up 1 >"$work/load.log" 2>&1 &
writer=$!
sleep 0.5
stop
! wait "$writer" || fail "the load ended well without a server"
log_says "no connection for 1 seconds" && log_says "Connection timed out" ||
  fail "giving up: $(cat "$work/load.log")"

say "another export is refused"
start memory "$size"
"$load" "$uri" --until "$work/never" >"$work/load.log" 2>&1 &
writer=$!
sleep 0.5
stop
start memory 32M
! wait "$writer" || fail "the load ended well on another export"
log_says "another export is served there: its size is" || fail "another: $(cat "$work/load.log")"
stop
finish
