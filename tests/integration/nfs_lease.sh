#!/bin/bash
# One owner: a process on each of two hosts (network namespaces) wants the lease of one disk on the
# real nfs-ganesha and writes as long as it has it. Rounds: the owner is stopped until the other
# has taken over, then goes on; its cable is cut for as long; it is killed and started anew; the
# server is. Who loses its lease otherwise, on a machine too busy to renew it, begins anew. The judge
# is the server's log of writes: no token after a higher one. Without
# self-fencing, and with a connection that sends again what it sent long ago, it must go red.
# ROUNDS: how many; VERSION: of NFS; LEASE: milliseconds; TWINS: no, for rounds only.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
need nsenter
rounds=${ROUNDS:-8} lease=${LEASE:-3000} version=${VERSION:-3}
writer=$build/tests/integration/lease_writer
log=$work/write.log
export WRITE_LOG=$log
declare -A running=()  # process -> its host
held='' lost=0         # not to begin anew; how many did

serve_logged() { serve_nfs "$build/tests/lib/write_log.so"; }

start() {  # start HOST OPTION...
  local host=$1
  shift
  on_host "$host" "$writer" "$uri" --lease "$lease" "$@" >>"$work/writers.log" 2>&1 &
  running[$!]=$host
  children+=($!)
}
owner() { tail -n 1 "$log" 2>/dev/null | cut -d ' ' -f 2; }
last_token() { tail -n 1 "$log" 2>/dev/null | cut -d ' ' -f 1; }
writes() { wc -l <"$log"; }
tend() {
  local pid host status
  for pid in "${!running[@]}"; do
    if [[ $pid == "$held" ]] || kill -0 "$pid" 2>/dev/null; then continue; fi
    status=0
    wait "$pid" || status=$?
    [[ $status -eq 3 ]] || fail "a contender ended with $status: $(tail -n 3 "$work/writers.log")"
    host=${running[$pid]}
    unset "running[$pid]"
    lost=$((lost + 1))
    start "$host"
  done
}
higher_than() {
  tend
  [[ $(last_token) -gt $1 ]]
}
more_than() {
  tend
  [[ $(writes) -gt $1 ]]
}
find_owner() {  # sets $old, $token
  tend
  old=$(owner) token=$(last_token)
  [[ -n ${running[$old]:-} ]]
}
two_writers() { awk '$1 < most { bad = 1 } $1 > most { most = $1 } END { exit !bad }' "$log"; }

begin_round() {  # a fresh disk, two contenders, one of them writes
  disks=$((disks + 1))
  uri=$(nfs_uri "$version" "disk$disks.img")
  truncate -s 4M "$work/export/disk$disks.img"
  : >"$log"  # the server has it open
  start one "$@"
  start other "$@"
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

# outlast WAY OPTION...: while it is stopped, or its cable is cut, another takes over; then it goes
# on, and without options must end as one that has lost its lease.
outlast() {
  local way=$1 old token host status=0
  shift
  wait_until 240 find_owner || fail "nobody writes: $(tail -n 3 "$work/writers.log")"
  host=${running[$old]} held=$old
  if [[ $way == stop ]]; then kill -STOP "$old" || true; else cut_cable "$host"; fi
  wait_until 240 higher_than "$token" || fail "nobody took over: $(tail -n 3 "$work/writers.log")"
  wait_until 240 more_than $(($(writes) + 20)) || fail "the new owner does not write"
  if [[ $way == stop ]]; then kill -CONT "$old" || true; else join_cable "$host"; fi
  if [[ $# -eq 0 ]]; then
    wait "$old" || status=$?
    [[ $status -eq 3 ]] || fail "the old owner ended with $status: $(tail -n 3 "$work/writers.log")"
    unset "running[$old]"
    start "$host"
  fi
  held=''
}

uri='' disks=0
add_host one
add_host other
say "version $version: $rounds rounds"
serve_logged
begin_round
for ((round = 0; round < rounds; round++)); do
  case $((round % 4)) in
    0) outlast stop ;;
    1) outlast cut ;;
    2)
      wait_until 240 find_owner || fail "nobody writes: $(tail -n 3 "$work/writers.log")"
      kill -9 "$old" || true
      wait "$old" 2>/dev/null || true
      start "${running[$old]}"
      unset "running[$old]"
      wait_until 240 higher_than "$token" || fail "nobody took over from a killed owner"
      ;;
    3)
      before=$(writes)
      stop_nfs
      sleep 1
      serve_logged
      wait_until 240 more_than $((before + 20)) || fail "nobody writes after the server's restart"
      ;;
  esac
  ! two_writers || fail "round $round: two writers"
done
say "$(writes) writes, $(last_token) owners, $lost of them lost their lease to the machine's load"
end_round
[[ ${TWINS:-} != no ]] || { finish; exit 0; }

# goes_red WAY OPTION
goes_red() {
  local twin
  say "with $2 it goes red"
  for ((twin = 0; twin < 5; twin++)); do
    begin_round "$2"
    outlast "$1" "$2"
    # What it had sent may be on its way for as long as it waited to be sent.
    ! wait_until 30 two_writers || return 0
    end_round
  done
  fail "with $2 the old owner wrote nothing"
}
goes_red stop --no-self-fencing
end_round
goes_red cut --patient-socket
end_round
finish
