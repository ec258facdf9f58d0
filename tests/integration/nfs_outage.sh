#!/bin/bash
# The real nfs-ganesha is away for a while, longer than a lease lasts, killed or cut from the network:
# who writes sees no error and goes on when it is back; nas-scsi with requests under way ends at once on SIGTERM and SIGKILL
# meanwhile, and no thread is in uninterruptible sleep. Versions 3 and 4.
# OUTAGE: seconds; RESUME_MS: fails when writing goes on later after the server's return
# (else it is only printed: the machine may be busy).
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
need iscsi-test-cu nsenter
outage=${OUTAGE:-5} lease_ms=${LEASE:-3000}
writer=$build/tests/integration/lease_writer nas_scsi=$build/scsi/tools/nas-scsi
log=$work/write.log
export WRITE_LOG=$log

serve_logged() { serve_nfs "$build/tests/lib/write_log.so"; }
writes() { wc -l <"$log"; }
more_than() { [[ $(writes) -gt $1 ]]; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
ended() {
  local state
  state=$(ps -o stat= -p "$1") || return 0
  [[ $state == Z* ]]
}
# Twice in a row: a thread may wait for a disk for a moment.
nobody_sleeps_hard() {
  local first second
  first=$(ps -L -o stat=,lwp= -p "$1" | awk '$1 ~ /^D/ { print $2 }')
  [[ -n $first ]] || return 0
  sleep 0.5
  second=$(ps -L -o stat=,lwp= -p "$1" | awk '$1 ~ /^D/ { print $2 }')
  [[ -z $(comm -12 <(sort <<<"$first") <(sort <<<"$second")) ]]
}

# leave_and_return VERSION WAY: WAY is killed or cut.
leave_and_return() {
  local version=$1 way=$2 process before back took second
  rm -rf "$work/export/disk.img" "$work/export/disk.img.lock" "$log"
  truncate -s 100M "$work/export/disk.img"
  : >"$log"
  serve_logged
  on_host client "$writer" "$uri" --lease "$lease_ms" >"$work/writer.log" 2>&1 &
  process=$!
  children+=("$process")
  wait_until 60 more_than 20 || fail "nothing is written: $(cat "$work/writer.log")"
  say "version $version: the server is away for $outage s, $way"
  if [[ $way == killed ]]; then stop_nfs; else cut_cable client; fi
  sleep 1  # what was on its way has arrived
  before=$(writes)
  for ((second = 1; second < outage; second++)); do
    sleep 1
    kill -0 "$process" 2>/dev/null || fail "the writer ended: $(tail -n 3 "$work/writer.log")"
    nobody_sleeps_hard "$process" || fail "a thread is in uninterruptible sleep"
  done
  [[ $(writes) -eq $before ]] || fail "who writes without a server?"
  if [[ $way == killed ]]; then serve_logged; else join_cable client; fi
  back=$(now_ms)
  wait_until 60 more_than "$before" || fail "nothing is written: $(tail -n 3 "$work/writer.log")"
  took=$(($(now_ms) - back))
  say "  written again $took ms after the server was back"
  [[ -z ${RESUME_MS:-} || $took -le $RESUME_MS ]] || fail "later than $RESUME_MS ms"
  wait_until 60 more_than $((before + 20)) || fail "nothing is written any more"
  kill -0 "$process" 2>/dev/null || fail "the writer saw an error: $(tail -n 3 "$work/writer.log")"
  kill -9 "$process"
  wait "$process" 2>/dev/null || true
  rm -rf "$work/export/disk.img.lock"
  stop_nfs
}

add_host client
for version in 3 4; do
  uri=$(nfs_uri $version disk.img)
  leave_and_return $version killed
  leave_and_return $version cut

  for signal in TERM KILL; do
    say "version $version: SIG$signal in the outage"
    serve_logged
    rm -f "$work/urls"
    "$nas_scsi" --portal 127.0.0.1:0 --lease 3 --wait "$uri" >"$work/urls" 2>"$work/nas.log" &
    process=$!
    children+=("$process")
    wait_until 60 test -s "$work/urls" || fail "nas-scsi: $(cat "$work/nas.log")"
    stop_nfs
    iscsi-test-cu --dataloss --test SCSI.Write10.Simple "$(head -n 1 "$work/urls")" \
      >"$work/client.log" 2>&1 &
    client=$!
    children+=("$client")
    sleep 3
    kill -0 "$client" 2>/dev/null || fail "no request is stalled: $(tail -n 5 "$work/client.log")"
    nobody_sleeps_hard "$process" || fail "a thread is in uninterruptible sleep"
    kill -"$signal" "$process"
    begun=$(now_ms)
    wait_until 20 ended "$process" || fail "nas-scsi lives on: $(tail -n 3 "$work/nas.log")"
    say "  ended after $(($(now_ms) - begun)) ms"
    wait "$process" 2>/dev/null || true
    kill "$client" 2>/dev/null || true
    wait "$client" 2>/dev/null || true
  done
done
finish
