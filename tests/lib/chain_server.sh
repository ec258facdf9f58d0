# shellcheck shell=bash
# A chain that nbdkit serves in the background, after harness.sh: $top on $socket, at
# $uri; $server is its process.
#
#   start          until it answers, its control socket, too
#   stop [SIGNAL]  kills it

export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$TIDEPOOL_BUILD/blockdev/tools/cowchain
plugin=$TIDEPOOL_BUILD/blockdev/nbdkit/nbdkit-cowchain-plugin.so
top=$work/disk.layer socket=$work/socket
uri="nbd+unix:///?socket=$socket"

start() {
  rm -f "$socket"
  nbdkit -f -U "$socket" "$plugin" "$top" 2>>"$work/nbdkit.log" &
  server=$!
  children=("$server")
  wait_until 10 test -S "$socket" || fail "nbdkit: $(cat "$work/nbdkit.log")"
  wait_until 10 "$cowchain" info "$top" >/dev/null || fail "it does not answer"
}
stop() {
  kill "${1:--TERM}" "$server"
  wait "$server" 2>/dev/null || true
  children=()
}
