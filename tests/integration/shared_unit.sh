#!/bin/bash
# One unit of two hosts (network namespaces) that share only a disk on the real nfs-ganesha: each
# runs nas-scsi --shared, and each one's initiator reaches the unit by way of its own host. The
# whole matrix of persistent reservations, what the other host's initiator is told, two counters by
# COMPARE AND WRITE at once; then a host is stopped, or killed: the other goes on without it,
# and the one that wakes up writes nothing. Without sharing, the matrix and the counters go red.
# VERSION: of NFS; LEASE: seconds; COUNT: increments of each host.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
need nsenter python3
version=${VERSION:-3} lease=${LEASE:-6} count=${COUNT:-40}
name=iqn.2026-11.test:shared
judge=$(dirname "$0")/shared_unit.py
declare -A target=()

start_target() {  # start_target HOST OPTION...
  local host=$1
  shift
  : >"$work/urls.$host"
  on_host "$host" "$build/scsi/tools/nas-scsi" --target "$name" --portal 127.0.0.1:3260 \
    "$@" "$uri" >"$work/urls.$host" 2>>"$work/nas.$host.log" &
  target[$host]=$!
  children+=($!)
  wait_until 240 test -s "$work/urls.$host" || fail "nas-scsi: $(tail -n 3 "$work/nas.$host.log")"
}
end_target() {
  kill "${target[$1]}"
  wait "${target[$1]}" || fail "nas-scsi ended with $?: $(tail -n 3 "$work/nas.$1.log")"
}
initiator() {
  echo "nsenter --target ${hosts[$1]} --net -- $build/tests/integration/iscsi_cdb iscsi://127.0.0.1:3260/$name/0"
}
judged() {  # judged WHAT ARGUMENT...: the initiators of both hosts
  timeout 900 python3 "$judge" "$@" "$(initiator one)" "$(initiator other)" >"$work/judge" 2>&1
}
passes() { judged "$@" || fail "$*: $(tail -n 8 "$work/judge")"; }
judge_one() {
  timeout 240 python3 "$judge" "$1" "$(initiator one)" >"$work/judge" 2>&1 ||
    fail "$1: $(tail -n 8 "$work/judge")"
}
goes_red() { ! judged "$@" || fail "$* does not see what is wrong"; }
fresh() {
  disks=$((disks + 1))
  uri=$(nfs_uri "$version" "disk$disks.img")
  truncate -s 16M "$work/export/disk$disks.img"
}
says() { grep -qs "$1" "$work/nas.$2.log"; }

disks=0
add_host one
add_host other
serve_nfs
fresh
start_target one --shared --lease "$lease"
start_target other --shared --lease "$lease"
began=$SECONDS
passes matrix
say "version $version: $(head -n 1 "$work/judge") of the matrix in $((SECONDS - began)) s"
passes attentions
began=$SECONDS
passes counters "$count"
say "$((2 * count)) increments by two hosts at once in $((SECONDS - began)) s"

say "one owner is kept out while two share"
add_host third
if (on_host third "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:3260 --lease "$lease" "$uri") \
  >"$work/third.log" 2>&1; then
  fail "a third host has it alone"
fi
grep -q "in use by 2 that share it" "$work/third.log" || fail "$(cat "$work/third.log")"

# outlast SIGNAL: host one stops, or is killed, while its initiator holds a reservation; the other
# preempts it and writes; what was sent to the one meanwhile is not written.
outlast() {
  local signal=$1 answer holder
  rm -f "$work/go"
  mkfifo "$work/go"
  python3 "$judge" hold "$(initiator one)" <"$work/go" >"$work/holder" 2>&1 &
  holder=$!
  children+=("$holder")
  exec {go}>"$work/go"
  wait_until 240 grep -qs holding "$work/holder" || fail "nobody holds: $(cat "$work/holder")"
  kill "-$signal" "${target[one]}"
  echo >&"$go"
  timeout 240 python3 "$judge" preempt "$(initiator other)" >"$work/judge" 2>&1 ||
    fail "the other: $(tail -n 8 "$work/judge")"
  if [[ $signal == STOP ]]; then
    kill -CONT "${target[one]}"
    wait_until 240 says "the other hosts went on without this one" one || fail "it is not told"
    wait_until 240 grep -qs "^check" "$work/holder" || fail "it wrote: $(cat "$work/holder")"
    kill -9 "${target[one]}"
  fi
  wait "${target[one]}" 2>/dev/null || true
  kill -9 "$holder" 2>/dev/null || true
  wait "$holder" 2>/dev/null || true
  exec {go}>&-
  cmp <(head -c 512 "$work/export/disk$disks.img") <(head -c 512 /dev/zero | tr '\0' '\063') ||
    fail "what it was sent was written"
  start_target one --shared --lease "$lease"
  passes attentions
}
for signal in STOP KILL; do
  began=$SECONDS
  outlast "$signal"
  say "SIG$signal of one: the other went on, $((SECONDS - began)) s with the return of the one"
done
say "reservations go over to a single owner, and back"
judge_one keep
end_target one
end_target other
start_target one --lease "$lease"
judge_one kept
if (on_host other "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:3260 --shared --lease "$lease" \
  "$uri") >"$work/third.log" 2>&1; then
  fail "a host shares what another has alone"
fi
grep -q "in use by" "$work/third.log" || fail "$(cat "$work/third.log")"
judge_one keep
end_target one
start_target one --shared --lease "$lease"
judge_one kept
kill -9 "${target[one]}"
wait "${target[one]}" 2>/dev/null || true
start_target one --lease "$lease"
judge_one kept
end_target one

say "without sharing it goes red"
fresh
start_target one --lease 0
start_target other --lease 0
goes_red matrix
goes_red attentions
goes_red counters "$count"
end_target one
end_target other
stop_nfs
finish
