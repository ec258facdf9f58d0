#!/bin/bash
# leanvm's disks by vhost-user: the test guest on back ends that are not leanvm's own
# (qemu-storage-daemon, elasticfs, our back end in a process of its own), and what it sees
# when they are killed and started again under load: nothing but a pause, where what they
# answered outlives them; else that its disk is broken.
source "$(dirname "$0")/../lib/harness.sh"
leanvm=$build/vmm/leanvm
kernel=$build/subprojects/testguest/testguest.elf
server=$build/tests/integration/vhost_user_disk

need python3 jq
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
begin
cd "$work"
sockets=$work/sockets rounds=${ROUNDS:-10}

has_pattern() {
  python3 - "$1" <<'END'
import struct, sys
data = open(sys.argv[1], 'rb').read(128 * 1024)
want = b''.join(struct.pack('<I', word * 2654435761 % 2**32 ^ 0x7469646e) for word in range(len(data) // 4))
sys.exit(0 if len(data) == 128 * 1024 and data == want else 1)
END
}

# start_NAME: the back end, on $socket, over the same disk as before; $backend; of ours [KIND]
# What a killed one had locked may be free a moment later only: the kernel ends its io_uring
# in its own time.
start_ours() {
  local tries mode=${1:-}
  for ((tries = 0; tries < 100; tries++)); do
    rm -f "$socket"
    "$server" "$socket" disk.img 4 ${mode:+"$mode"} >>"$socket.log" 2>&1 &
    backend=$!
    children+=("$backend")
    until [[ -S $socket ]]; do
      kill -0 "$backend" 2>/dev/null || break
      sleep 0.02
    done
    [[ ! -S $socket ]] || return 0
    wait "$backend" || true
    sleep 0.1
  done
  fail "the back end: $(tail -n 3 "$socket.log")"
}
start_qsd() {
  rm -f "$socket"
  qemu-storage-daemon --blockdev driver=file,filename=disk.img,node-name=disk,locking=off \
    --export "type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues=4,addr.type=unix,addr.path=$socket" \
    >>"$socket.log" 2>&1 &
  backend=$!
  children+=("$backend")
  wait_until 60 test -S "$socket" || fail "qemu-storage-daemon: $(cat "$socket.log")"
}
start_elastic() {
  mount_pool "vhost-user-dir=$sockets"
  backend=$daemon
}
kill_ours() { kill -9 "$backend" 2>/dev/null && wait "$backend" 2>/dev/null || true; }
kill_qsd() { kill_ours; }

run() {  # run NAME TEST: what is typed comes from the pipe "keys"
  rm -f "$1.out"  # else what an earlier one said would be taken for its word
  timeout 600 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline "test=$2" \
    --disk "vhost-user=$socket,queues=2" --name "front-$$" <keys >"$1.out" 2>"$1.err" &
  vm=$!
  children+=("$vm")
}
passed() {  # passed NAME
  local status=0
  wait "$vm" || status=$?
  [[ $status -eq 0 ]] && grep -qx 'testguest: passed' "$1.out" ||
    fail "$1: exit status $status: $(cat "$1.out" "$1.err")"
}
is_broken() {  # is_broken NAME: the guest says so, and leanvm why
  wait "$vm" || true
  ! grep -qx 'testguest: passed' "$1.out" && grep -q 'is broken' "$1.out" ||
    fail "$1: a back end without notes was replaced unseen: $(cat "$1.out")"
  grep -q 'keeps no notes' "$1.err" || fail "$1: no word about it: $(cat "$1.err")"
}
is_back() { [[ $(grep -c 'is there again' "$2.err") -ge $1 ]]; }  # is_back TIMES NAME
loading() { grep -qs 'testguest: loading' "$1.out" || ! kill -0 "$vm" 2>/dev/null; }

mkfifo keys
exec 7<>keys
kinds=(ours elastic)
if command -v qemu-storage-daemon >/dev/null; then kinds+=(qsd); else say "qemu-storage-daemon is not installed: left out"; fi
create_pool 256M
mount_pool
make_disk vm1/disk0 8M
sync "$disk"
unmount_pool

for kind in "${kinds[@]}"; do
  rm -f disk.img
  truncate -s 8M disk.img
  socket=$work/$kind.socket
  [[ $kind != elastic ]] || socket=$sockets/vm1/disk0
  "start_$kind"
  if [[ $kind != qsd ]]; then  # which gives its disks no name
    run "$kind" disk
    passed "$kind"
    content=disk.img
    [[ $kind != elastic ]] || content=$mount/vm1/disk0
    has_pattern "$content" || fail "$kind: other data"
    say "$kind: passed"
    [[ $kind == elastic ]] || { wait "$backend" || fail "$kind: the back end ended with an error"; "start_$kind"; }
  fi
  run "$kind-killed" load
  wait_until 120 loading "$kind-killed" || fail "$kind: no load: $(cat "$kind-killed.out" "$kind-killed.err")"
  [[ $("$leanvm" info --json "front-$$" | jq -r '.disks[0].name') == "vhost-user=$socket" ]] || fail "info"
  if [[ $kind == qsd ]]; then  # of QEMU 7.2: keeps no notes
    sleep 0.5
    printf 'x' >&7
    passed "$kind-killed"
    say "$kind: $(grep rounds "$kind-killed.out")"
    run "$kind-killed" load
    wait_until 120 loading "$kind-killed" || fail "$kind: no load"
    kill_qsd
    start_qsd
    is_broken "$kind-killed"
    kill_qsd
    say "$kind: its death is seen"
    continue
  fi
  if [[ $kind == elastic ]]; then
    kill_daemon
    drop_dead_mount
    start_elastic
    is_broken "$kind-killed"
    wait_until 60 umount "$mount" || fail "umount"
    wait_until 60 daemon_ended || fail "the daemon did not end"
    daemon=
    check_clean
    say "$kind: its death is seen"
    continue
  fi
  for ((i = 0; i < rounds; i++)); do
    sleep "0.$((RANDOM % 5 + 1))"
    "kill_$kind"
    "start_$kind"
    wait_until 60 is_back $((i + 1)) "$kind-killed" || fail "$kind: $(cat "$kind-killed.err")"
  done
  "$leanvm" pause "front-$$" || fail "$kind: pause"
  "kill_$kind"
  "start_$kind"
  "$leanvm" resume "front-$$" || fail "$kind: resume"
  sleep 0.5
  printf 'x' >&7
  passed "$kind-killed"
  say "$kind: killed $((rounds + 1)) times, $(grep rounds "$kind-killed.out")"
  kill "$backend" 2>/dev/null || true
  wait "$backend" 2>/dev/null || true
done

# The twin: without notes a back end's death is seen.
socket=$work/forgetful.socket
start_ours forgetful
run forgetful load
wait_until 120 loading forgetful || fail "no load"
sleep 0.3
kill_ours
start_ours forgetful
is_broken forgetful
say "without notes: seen"

kill_ours
# One that kept notes, and in its place one that does not.
socket=$work/changed.socket
start_ours
run changed load
wait_until 120 loading changed || fail "no load"
sleep 0.3
kill_ours
start_ours forgetful
is_broken changed
kill_ours
say "notes that the next one does not know: seen"

# Answered out of order, and killed: the first of the guest's 16 writes was carried out and not
# answered. The notes tell the next one that it is this one. The twin: where they are lost, it
# takes the last for it, and the first is never answered.
answered() {  # all but the first: what the last wrote is there, and had time to be answered
  [[ $(dd if=disk.img bs=4096 skip=15 count=1 status=none | tr -d '\0' | wc -c) -gt 0 ]] && sleep 2
}
lose_notes() {
  local entry
  for entry in "/proc/$(pgrep -P "$vm" -x leanvm)"/fd/*; do
    [[ $(readlink "$entry") == /memfd:in-flight* ]] || continue
    dd if=/dev/zero of="$entry" bs="$(stat -Lc %s "$entry")" count=1 conv=notrunc status=none
    return
  done
  fail "no notes to lose"
}
for notes in kept lost; do
  rm -f disk.img
  truncate -s 8M disk.img
  socket=$work/$notes.socket
  start_ours holding
  run "$notes" load
  wait_until 120 loading "$notes" || fail "no load"
  wait_until 120 answered || fail "$notes: nothing was written"
  kill_ours
  [[ $notes == kept ]] || lose_notes
  start_ours
  wait_until 60 is_back 1 "$notes" || fail "$notes: $(cat "$notes.err")"
  printf 'x' >&7
  if [[ $notes == kept ]]; then
    passed kept
  else
    wait "$vm" || true
    grep -q 'writes failed' lost.out || fail "lost notes went unseen: $(cat lost.out lost.err)"
  fi
  wait "$backend" 2>/dev/null || true
  say "answered out of order, notes $notes: $([[ $notes == kept ]] && echo passed || echo seen)"
done

status=0
timeout 60 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline test=none \
  --disk "vhost-user=$work/nobody" </dev/null >nobody 2>&1 || status=$?
[[ $status -eq 1 ]] && grep -q 'no back end answers' nobody || fail "no back end: $(cat nobody)"
finish
