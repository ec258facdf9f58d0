#!/bin/bash
# As a service: the unit is well-formed to systemd's own eyes, and the daemon says
# READY=1 when its mount is there and not before, STOPPING=1 at the end, over a path
# and over an abstract socket. Killed, its dead mount goes and it starts anew.
source "$(dirname "$0")/../lib/harness.sh"

begin
need python3 systemd-analyze
unit=$(dirname "$0")/../../systemd/elasticfs@.service
create_pool 64M

# The unit, with the program where it is built.
sed "s|/usr/bin/elasticfs|$elasticfs|" "$unit" >"$work/elasticfs@.service"
cp "$work/elasticfs@.service" "$work/elasticfs@scratch.service"
systemd-analyze verify --man=no "$work/elasticfs@scratch.service" >"$work/verify.log" 2>&1 ||
  fail "systemd-analyze verify: $(cat "$work/verify.log")"
[[ ! -s $work/verify.log ]] || fail "systemd-analyze verify: $(cat "$work/verify.log")"
# What it would run, word for word.
command_of() { # command_of KEY
  sed -n "s/^$1=-\?//p" "$work/elasticfs@.service" |
    sed "s|\${OPTIONS}|allow_other|; s|\${POOL}|$pool|; s|\${MOUNTPOINT}|$mount|"
}

# A line per message: its text, and whether the mount was there when it came.
service_manager() { # service_manager ADDRESS
  exec python3 - "$1" "$mount" <<'PYTHON'
import os, socket, sys
address, mount = sys.argv[1:]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind("\0" + address[1:] if address.startswith("@") else address)
print("listening", flush=True)
while True:
    print(manager.recv(4096).decode(), "mounted" if os.path.ismount(mount) else "absent", flush=True)
PYTHON
}
said() { grep -q "^$1" "$work/said"; }

start() {
  NOTIFY_SOCKET=$address $(command_of ExecStart) >>"$work/daemon.log" 2>&1 &
  daemon=$!
  wait_until 60 said READY=1 || fail "no READY=1 on $address: $(cat "$work/said")"
}

for address in "$work/notify" "@tidepool-service-$$"; do
  : >"$work/said"
  service_manager "$address" >>"$work/said" &
  manager=$!
  children+=("$manager")
  wait_until 30 said listening || fail "the listener does not start"
  start
  [[ $(cat "$work/said") == $'listening\nREADY=1 mounted' ]] || fail "said: $(cat "$work/said")"
  $(command_of ExecStop) || fail "ExecStop"
  wait_until 60 daemon_ended || fail "the daemon outlives ExecStop"
  wait "$daemon" || fail "the daemon ended with status $?"
  daemon=
  [[ $(sed 's/ .*//' "$work/said") == $'listening\nREADY=1\nSTOPPING=1' ]] ||
    fail "said: $(cat "$work/said")"
  $(command_of ExecStopPost) 2>/dev/null && fail "ExecStopPost finds a mount after a regular end"

  # Restart=on-failure: systemd runs ExecStopPost, then ExecStart.
  : >"$work/said"
  start
  kill_daemon
  $(command_of ExecStopPost) || fail "ExecStopPost leaves the dead mount"
  : >"$work/said"
  start
  kill -TERM "$daemon" # as systemctl stop does when ExecStop has not ended it
  wait_until 60 said STOPPING=1 || fail "no STOPPING=1 after SIGTERM"
  wait_until 60 daemon_ended || fail "SIGTERM does not end the daemon"
  wait "$daemon" || fail "the daemon ended by SIGTERM with status $?"
  daemon=
  kill "$manager"
  wait "$manager" 2>/dev/null || true
  children=()
done
check_clean
finish
