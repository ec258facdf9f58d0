#!/bin/bash
# kill -9 of a loaded daemon, ROUNDS times: after each, nothing that an fsync
# acknowledged is lost, nothing is torn or foreign, and the pool checks clean before
# anybody mounts it again.
source "$(dirname "$0")/../lib/harness.sh"
writer=$build/tests/integration/flush_writer
rounds=${ROUNDS:-20}

begin
need_space 1500
choose_seed
create_pool 1G
mkdir "$work/logs"
mount_pool
make_vm vm1
for ((round = 1; round <= rounds; round++)); do
  "$writer" run "$vm" "$work/logs" --seed $((seed + round)) --seconds 60 >"$work/writer.log" 2>&1 &
  pid=$!
  wait_until 30 grep -q writing "$work/writer.log" || fail "no writing: $(cat "$work/writer.log")"
  sleep "$((RANDOM % 2)).$((RANDOM % 10))$((RANDOM % 10))"
  kill_daemon
  status=0
  wait "$pid" || status=$?
  drop_dead_mount
  [[ $status -eq 4 ]] || fail "round $round: the writer ended with $status: $(cat "$work/writer.log")"
  # Recovery is the daemon's; check must also see nothing wrong in what it finds.
  check_clean
  mount_pool
  "$writer" verify "$vm" "$work/logs" >"$work/verify.log" 2>&1 ||
    fail "round $round: $(cat "$work/verify.log")"
done
unmount_pool
check_clean
finish "passed: $rounds kills, $(wc -l <"$work/logs/names.log") names changed"
