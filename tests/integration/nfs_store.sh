#!/bin/bash
# Files on NFS as stores, on the real nfs-ganesha: what remote_load read and wrote is compared
# by itself and with the server's file, in versions 3 and 4. Then the server is killed and
# restarted under load, between WRITE and COMMIT: what it had not flushed is lost with it
# (lossy_files). Without a look at the write verifier, the same must go red. So must, without
# sending again what a COMMIT that failed had covered, a server that could not store it.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
load=$TIDEPOOL_BUILD/tests/integration/remote_load
lossy=$TIDEPOOL_BUILD/tests/lib/lossy_files.so
rounds=${ROUNDS:-4} operations=${OPS:-200} size=${SIZE:-16M}
file=$work/export/disk.img
fresh() {
  rm -f "$file"
  truncate -s "$size" "$file"
}

for version in 3 4; do
  uri=$(nfs_uri $version disk.img)
  say "version $version: random requests; and with room for few that are not flushed"
  for keep in 67108864 1048576; do
    fresh
    serve_nfs
    "$load" "$uri" --ops "$operations" --keep "$keep" --save "$work/copy" >"$work/load.log" 2>&1 ||
      fail "$(tail -n 3 "$work/load.log")"
    stop_nfs
    cmp "$file" "$work/copy" || fail "version $version: the server's file differs"
  done
done

# under_fire VERSION ROUNDS OPTION...: the load while the server is killed; its status.
under_fire() {
  local uri round status=0 times=$2
  uri=$(nfs_uri "$1" disk.img)
  shift 2
  fresh
  rm -f "$work/enough"
  serve_nfs "$lossy"
  "$load" "$uri" --until "$work/enough" --save "$work/copy" "$@" >"$work/load.log" 2>&1 &
  local writer=$!
  children+=("$writer")
  wait_until 60 grep -q open "$work/load.log" || fail "$(tail -n 3 "$work/load.log")"
  for ((round = 0; round < times; round++)); do
    sleep "0.$((RANDOM % 6 + 3))"
    kill -0 "$writer" 2>/dev/null || break
    stop_nfs
    serve_nfs "$lossy"
  done
  touch "$work/enough"
  wait "$writer" || status=$?
  stop_nfs
  return "$status"
}
is_of_bytes() { grep -q "^offset .* is .*, not\|^the part at .* differs" "$work/load.log"; }
for version in 3 4; do
  say "version $version: killed $rounds times between WRITE and COMMIT"
  under_fire $version "$rounds" || fail "$(tail -n 4 "$work/load.log")"
  cmp "$file" "$work/copy" || fail "version $version: what was flushed is not there"
  grep -q "connected again" "$work/load.log" || fail "no kill was noticed"
  grep -Eq " [1-9][0-9]* unflushed changes were sent again" "$work/load.log" ||
    fail "no kill came between WRITE and COMMIT"

  say "version $version: without a look at the verifier it goes red"
  for ((twin = 0; twin < 10; twin++)); do
    status=0
    under_fire $version 4 --forget-unflushed || status=$?
    if [[ $status -eq 0 ]]; then
      cmp -s "$file" "$work/copy" || continue 2
    else
      is_of_bytes && continue 2
      fail "the twin failed in another way: $(tail -n 3 "$work/load.log")"
    fi
  done
  fail "version $version: what the server lost was not missed"
done

# in_trouble VERSION TIMES OPTION...: the load while the server cannot store what it has, now and
# then; its status, and 1 when the file is not what was flushed.
in_trouble() {
  local uri round writer status=0 times=$2
  uri=$(nfs_uri "$1" disk.img)
  shift 2
  fresh
  rm -f "$work/enough" "$work/trouble" "$work/compare.log"
  export LOSSY_FILES_FAIL=$work/trouble
  serve_nfs "$lossy"
  unset LOSSY_FILES_FAIL
  "$load" "$uri" --until "$work/enough" --save "$work/copy" --again "$@" >"$work/load.log" 2>&1 &
  writer=$!
  children+=("$writer")
  wait_until 60 grep -q open "$work/load.log" || fail "$(tail -n 3 "$work/load.log")"
  for ((round = 0; round < times; round++)); do
    sleep "0.$((RANDOM % 3 + 1))"
    echo $((round % 2 == 0 ? 5 : 28)) >"$work/trouble.new"  # EIO, ENOSPC
    mv "$work/trouble.new" "$work/trouble"
    wait_until 60 test ! -e "$work/trouble" || fail "nothing was flushed: $(tail -n 2 "$work/load.log")"
  done
  touch "$work/enough"
  wait "$writer" || status=$?
  stop_nfs
  [[ $status -eq 0 ]] || return "$status"
  cmp "$file" "$work/copy" >"$work/compare.log" || return 1
}
for version in 3 4; do
  say "version $version: the server cannot store what it has, $rounds times"
  in_trouble $version "$rounds" || fail "version $version: $(cat "$work/compare.log"; tail -n 3 "$work/load.log")"
  grep -q "could not store" "$work/load.log" || fail "no failure was noticed"

  say "version $version: when a flush is trusted that follows one that failed, it goes red"
  for ((twin = 0; twin < 10; twin++)); do
    status=0
    in_trouble $version 4 --trust-after-failure || status=$?
    [[ $status -ne 0 ]] || continue
    if [[ -s $work/compare.log ]] || is_of_bytes; then continue 2; fi
    fail "the twin failed in another way: $(tail -n 3 "$work/load.log")"
  done
  fail "version $version: what the server did not store was not missed"
done
finish
