#!/bin/bash
# leanvm's fence: what each thread may still do, as the kernel shows it; and what becomes of
# a machine one of whose threads is made to leave it, by a debugger. The same with a leanvm
# that has no fence: there the call is made, and the machine lives.
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"
leanvm=$build/vmm/leanvm
unconfined=$build/tests/integration/leanvm_unconfined
inject=$build/tests/integration/inject_call
kernel=$build/subprojects/testguest/testguest.elf

need jq nbdkit nbdinfo
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
grep -q '^Seccomp:' /proc/self/status || skip "the kernel has no seccomp"
! grep -qaE '__(asan|tsan)_init' "$leanvm" || skip "a leanvm with sanitizers has no fence"
begin
cd "$work"
export LEANVM_RUN=$work/run
truncate -s 8M raw.img

machine=''
start() {  # start PROGRAM: a machine that waits for its button; $machine
  rm -f printed "$LEANVM_RUN/fenced.sock"  # of the one before
  "$1" run --name fenced --kernel "$kernel" --memory 32M --cmdline test=button \
    --disk raw.img,raw <"${input:-/dev/null}" >printed 2>errors &
  machine=$!
  children=("$machine")  # the one before has ended
  wait_until 60 grep -q waiting printed || fail "the guest does not wait: $(cat printed errors)"
  wait_until 60 test -S "$LEANVM_RUN/fenced.sock" || fail "no control socket: $(cat errors)"
}
ended() {  # ended STATUS
  local status=0
  wait "$machine" || status=$?
  [[ $status -eq $1 ]] || fail "exit status $status, not $1: $(cat printed errors)"
}

# of_thread NAME KEY: what the kernel says of the thread whose name begins so.
of_thread() {
  local task
  for task in "/proc/$machine/task"/*; do
    [[ $(cat "$task/comm") == "$1"* ]] || continue
    sed -n "s/^$2:[[:space:]]*//p" "$task/status"
    return
  done
  fail "no thread '$1': $(cat "/proc/$machine"/task/*/comm)"
}

start "$leanvm"
for task in "/proc/$machine/task"/*; do
  grep -q '^Seccomp:[[:space:]]*2$' "$task/status" || fail "no filter: $(cat "$task/comm")"
  grep -q '^NoNewPrivs:[[:space:]]*1$' "$task/status" || fail "new privileges: $(cat "$task/comm")"
done
declare -A kept=([leanvm]=1406 [vcpu]=0 [disk]=0 [entropy]=0 [control]=2 [keyboard]=0 [signals]=0)
for thread in "${!kept[@]}"; do
  [[ $thread != keyboard ]] || continue  # has read the end of its input
  has=$(of_thread "$thread" CapEff)
  # Who runs this may have had fewer.
  [[ $((16#$has & ~16#${kept[$thread]})) -eq 0 ]] || fail "$thread: capabilities $has"
  filters=$(of_thread "$thread" Seccomp_filters)
  wanted=$([[ $thread == leanvm ]] && echo 1 || echo 2)
  [[ -z $filters || $filters -eq $wanted ]] || fail "$thread: $filters filters"
done
say "threads: $(cat "/proc/$machine"/task/*/comm | sort -u | tr '\n' ' ')"
"$leanvm" stop fenced
ended 0

# A thread leaves the fence: the machine ends and says which, and by what.
execve=59 socket=41 openat=257 ptrace=101 io_uring_setup=425
leaves() {  # leaves THREAD NAME-OF-CALL
  local thread=$1 call=$2
  start "$leanvm"
  said=$("$inject" "$machine" "$thread" "${!call}") || fail "$thread: cannot be directed"
  [[ $said == 'not made' ]] || fail "$thread: $call: $said"
  ended 1
  grep -qE "^leanvm: the thread '$thread.*' is not allowed the system call $call \(${!call}\)" errors ||
    fail "$thread: $call: $(cat errors)"
  say "$(cat errors)"
}
leaves leanvm execve
leaves leanvm ptrace
leaves vcpu openat
leaves vcpu socket
leaves disk socket
leaves disk openat
leaves disk io_uring_setup
leaves entropy execve
leaves control socket
leaves signals openat
mkfifo keys
exec 3<>keys  # nothing is typed, and does not end
input=keys leaves keyboard openat
exec 3>&-

# The twin.
for thread in leanvm vcpu disk entropy control signals; do
  start "$unconfined"
  said=$("$inject" "$machine" "$thread" "$execve") || fail "$thread: cannot be directed"
  [[ $said == 'made: -14' ]] || fail "without a fence, $thread: $said"
  "$leanvm" stop fenced
  ended 0
done
say "without a fence: the call is made"

# Within the fence there is room for what a queue's thread does when its server comes back.
truncate -s 8M nbd.img
serve_nbd "nbd+unix:///?socket=$work/nbd.socket" file nbd.img
exec 3<>keys
rm -f printed
"$leanvm" run --name fenced --kernel "$kernel" --memory 32M --cmdline test=load --console virtio \
  --disk "nbd+unix:///?socket=$work/nbd.socket" <keys >printed 2>errors &
machine=$!
children+=("$machine")
# With the other console what it prints is not seen.
requests() { "$leanvm" stat fenced --json 2>/dev/null | jq '.devices[0].requests'; }
more() { [[ $(requests) -gt $1 ]] || ! kill -0 "$machine" 2>/dev/null; }
wait_until 60 more 50 || fail "no load: $(cat errors)"
for round in 1 2 3; do
  stop_nbd "$server"
  before=$(requests)
  serve_nbd "nbd+unix:///?socket=$work/nbd.socket" file nbd.img
  wait_until 60 more $((before + 50)) || fail "round $round: the disk stands still: $(cat errors)"
  kill -0 "$machine" 2>/dev/null || fail "round $round: $(cat errors)"
done
"$leanvm" stop --now fenced
ended 1
exec 3>&-
say "a server came back 3 times"
finish
