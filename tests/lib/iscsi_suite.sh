# shellcheck shell=bash
# libiscsi's conformance suite against an iSCSI target, and what came of each test.
#
#   source "$(dirname "$0")/../lib/iscsi_suite.sh"
#   serve_nas_scsi DISK [OPTION...]     $urls: two portals; the server runs as $server
#   serve_vhost_user SOCKET DISK...     nas-scsi on a vhost-user-scsi socket, as $server
#   serve_tgt DISK [PARAMETER...]       the same with Debian's tgt; PARAMETER: NAME=VALUE
#   run_suite RESULTS PATTERN           RESULTS: "NAME <tab> passed|failed|skipped <tab> why"
#   stop_server
#
# The caller sets $build and $work (a directory) and calls stop_server when it is cut short.
# iscsi-test-cu counts a test that skipped itself as passed; here it is a skipped one.

server='' control='' end_signal=TERM urls=()
# All but Sanitize.Reset, which needs a disk that takes some seconds to overwrite.
# shellcheck disable=SC2034  # for those who source this
all_but_reset='ALL.[!S]*,ALL.S[!a]*,ALL.Sanitize.*[!t]'

suite_needs() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || { echo "skipped: $command is not installed"; exit 77; }
  done
}

serve_nas_scsi() {
  local disk=$1 i
  shift
  : >"$work/urls"
  "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 --portal 127.0.0.1:0 "$@" "$disk" \
    >"$work/urls" 2>"$work/server.log" &
  server=$! end_signal=TERM
  for ((i = 0; i < 300; i++)); do
    [[ $(wc -l <"$work/urls") -ge 2 ]] && break
    kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; return 1; }
    sleep 0.1
  done
  mapfile -t urls <"$work/urls"
}

serve_vhost_user() {
  local socket=$1 i
  shift
  : >"$work/urls"
  "$build/scsi/tools/nas-scsi" --physical-block-size 512 --vhost-user "$socket" "$@" \
    >"$work/urls" 2>"$work/server.log" &
  server=$! end_signal=TERM
  for ((i = 0; i < 300; i++)); do
    [[ -s $work/urls ]] && return
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  cat "$work/server.log" >&2
  return 1
}

serve_tgt() {
  local disk=$1 name=iqn.2026-11.test:tgt first second parameter i
  shift
  mkdir -p /var/run/tgtd
  # tgtd takes no free port by itself.
  for ((i = 0; i < 20; i++)); do
    first=$((20000 + RANDOM % 20000)) second=$((first + 1))
    tgtd --foreground --control-port "$((first % 1000))" --iscsi "portal=127.0.0.1:$first,portal=127.0.0.1:$second" \
      >"$work/server.log" 2>&1 &
    # It takes SIGTERM for nothing while it has a target.
    server=$! end_signal=KILL
    control=$((first % 1000))
    sleep 1
    tgt --op show --mode sys >/dev/null 2>&1 && break
    stop_server || true
  done
  [[ -n $server ]] || { cat "$work/server.log" >&2; return 1; }
  tgt --op new --mode target --tid 1 --targetname "$name" || return 1
  tgt --op new --mode logicalunit --tid 1 --lun 1 --backing-store "$disk" || return 1
  for parameter in "$@"; do
    tgt --op update --mode logicalunit --tid 1 --lun 1 --params "$parameter" || return 1
  done
  tgt --op bind --mode target --tid 1 --initiator-address ALL || return 1
  urls=("iscsi://127.0.0.1:$first/$name/1" "iscsi://127.0.0.1:$second/$name/1")
}
tgt() { tgtadm --control-port "$control" --lld iscsi "$@"; }

# How the server ended: 0 when it ended as it should.
stop_server() {
  local status=0
  [[ -n $server ]] || return 0
  kill -"$end_signal" "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || status=$?
  [[ $end_signal == TERM ]] || rm -f "/var/run/tgtd/socket.$control" "/var/run/tgtd/socket.$control.lock"
  server=
  return "$status"
}

run_suite() {
  local results=$1 status=0
  iscsi-test-cu --dataloss --allow-sanitize --fail --verbose --test "$2" "${urls[@]}" \
    >"$work/out" 2>&1 || status=$?
  awk -f "${BASH_SOURCE[0]%/*}/iscsi_suite.awk" "$work/out" >"$results"
  [[ -s $results ]] || { cat "$work/out" >&2; return 1; }
  return "$status"
}
