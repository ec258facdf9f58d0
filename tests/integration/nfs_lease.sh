#!/bin/bash
# One owner: two processes want the lease of one disk on the real nfs-ganesha and write as long as
# they have it. Rounds: the owner is stopped until the other has taken over, then goes on; or is
# killed and started anew; or the server is. The judge is the server's log of writes: no token
# after a higher one. Without self-fencing the same must go red.
# ROUNDS: how many; VERSION: of NFS; LEASE: milliseconds.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nfs_server.sh"

in_own_network "$@"
begin
begin_nfs
rounds=${ROUNDS:-6} lease=${LEASE:-3000} version=${VERSION:-3}
writer=$build/tests/integration/lease_writer
log=$work/write.log
export WRITE_LOG=$log
declare -A running=()

serve_logged() { serve_nfs "$build/tests/lib/write_log.so"; }

start() {  # start OPTION...
  "$writer" "$uri" --lease "$lease" "$@" >>"$work/writers.log" 2>&1 &
  running[$!]=yes
  children+=($!)
}
owner() { tail -n 1 "$log" 2>/dev/null | cut -d ' ' -f 2; }
last_token() { tail -n 1 "$log" 2>/dev/null | cut -d ' ' -f 1; }
writes() { wc -l <"$log"; }
higher_than() { [[ $(last_token) -gt $1 ]]; }
more_than() { [[ $(writes) -gt $1 ]]; }
two_writers() { awk '$1 < most { bad = 1 } $1 > most { most = $1 } END { exit !bad }' "$log"; }
gone() { ! kill -0 "$1" 2>/dev/null; }

begin_round() {  # a fresh disk, two contenders, one of them writes
  disks=$((disks + 1))
  uri=$(nfs_uri "$version" "disk$disks.img")
  truncate -s 4M "$work/export/disk$disks.img"
  : >"$log"  # the server has it open
  start "$@"
  start "$@"
  wait_until 240 more_than 20 || fail "nobody writes: $(tail -n 3 "$work/writers.log")"
}
end_round() {
  local pid
  for pid in "${!running[@]}"; do
    kill -CONT "$pid" 2>/dev/null || true
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  running=()
}

# stop_owner OPTION...: it sleeps through a takeover, then goes on: its status.
stop_owner() {
  local old token status=0
  old=$(owner) token=$(last_token)
  kill -STOP "$old"
  wait_until 240 higher_than "$token" || fail "nobody took over: $(tail -n 3 "$work/writers.log")"
  wait_until 240 more_than $(($(writes) + 20)) || fail "the new owner does not write"
  kill -CONT "$old"
  if [[ $# -eq 0 ]]; then
    wait "$old" || status=$?
    [[ $status -eq 3 ]] || fail "the old owner ended with $status: $(tail -n 3 "$work/writers.log")"
    unset "running[$old]"
  else
    sleep 1
  fi
}

uri='' disks=0
say "version $version: $rounds rounds"
serve_logged
begin_round
for ((round = 0; round < rounds; round++)); do
  case $((round % 3)) in
    0)
      stop_owner
      start
      ;;
    1)
      old=$(owner) token=$(last_token)
      kill -9 "$old"
      wait "$old" 2>/dev/null || true
      unset "running[$old]"
      start
      wait_until 240 higher_than "$token" || fail "nobody took over from a killed owner"
      ;;
    2)
      before=$(writes)
      stop_nfs
      sleep 1
      serve_logged
      wait_until 240 more_than $((before + 20)) || fail "nobody writes after the server's restart"
      ;;
  esac
  ! two_writers || fail "round $round: two writers"
done
say "$(writes) writes, $(last_token) owners"
end_round

say "without self-fencing it goes red"
for ((twin = 0; twin < 5; twin++)); do
  begin_round --no-self-fencing
  stop_owner --no-self-fencing
  end_round
  ! two_writers || finish
  [[ -z $ended ]] || exit 0
done
fail "a stopped owner that does not look at its lease wrote nothing"
