#!/bin/bash
# Order: between nas-scsi and the real nfs-ganesha is a network that delays and reorders requests
# and replies; initiators abort, reset and drop their sessions without end. Each block holds in
# the end, and at every read, what the last acknowledged write wrote; no command is answered
# twice. Versions 3 and 4. With a target that lets newer writes pass those that were aborted and
# are not over yet, it goes red.
# WRITES: of each of 48 slots; SEED.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
need python3
choose_seed
writes=${WRITES:-30}
storm=$(dirname "$0")/iscsi_storm.py

# in_storm VERSION SEED COMMAND...: a target before the disk, and the storm on it: its status, and
# 1 when the server's file is not what it should be.
in_storm() {
  local version=$1 number=$2 target status=0
  shift 2
  rm -f "$work/export/disk.img" "$work/urls"
  truncate -s 4M "$work/export/disk.img" "$work/wanted"
  start_proxy --delay 60 --seed "$number"
  "$@" "$(proxy_uri "$version" disk.img)" >"$work/urls" 2>"$work/target.log" &
  target=$!
  children+=("$target")
  wait_until 60 test -s "$work/urls" || fail "the target: $(cat "$work/target.log")"
  python3 "$storm" "$(head -n 1 "$work/urls")" --save "$work/wanted" --writes "$writes" \
    --seed "$number" >"$work/storm.log" 2>&1 || status=$?
  kill "$target"
  wait "$target" || fail "the target ended with $?: $(tail -n 3 "$work/target.log")"
  end_proxy
  [[ $status -eq 0 ]] || return "$status"
  say "  $(cat "$work/storm.log"); $(tail -n 1 "$work/proxy.log")"
  cmp "$work/export/disk.img" "$work/wanted" >"$work/storm.log" || status=1
  return "$status"
}

serve_nfs
for version in 3 4; do
  say "version $version: a storm of aborts, resets and lost sessions"
  in_storm "$version" "$seed" "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 --lease 0 ||
    fail "version $version: $(tail -n 3 "$work/storm.log")"
  say "version $version: without holding back what overlaps an aborted write it goes red"
  status=0
  in_storm "$version" "$seed" "$build/tests/integration/careless_target" || status=$?
  [[ $status -eq 1 ]] || fail "version $version: status $status of the twin"
  grep -q "not what was acknowledged last\|differ" "$work/storm.log" ||
    fail "the twin went wrong in another way: $(tail -n 3 "$work/storm.log")"
  say "  $(tail -n 1 "$work/storm.log")"
done
stop_nfs
finish
