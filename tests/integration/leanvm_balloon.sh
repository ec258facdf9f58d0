#!/bin/bash
# leanvm's balloon: the test guest gives memory away when it is asked to, has it back, and
# reports what is free; in between the machine is saved and restored. The judge is what the
# kernel says of the memory file behind the guest's memory.
source "$(dirname "$0")/../lib/harness.sh"
leanvm=$build/vmm/leanvm
kernel=$build/subprojects/testguest/testguest.elf

need jq
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
begin
cd "$work"
export LEANVM_RUN=$work/run

machine=''
start() {
  timeout 600 "$leanvm" "$@" </dev/null >>printed 2>>errors &
  # timeout's child is the machine
  children=("$!")
}
says() { grep -qx "testguest: $1" printed || ! kill -0 "${children[0]}" 2>/dev/null; }
wait_for() {
  wait_until 120 says "$1" && grep -qx "testguest: $1" printed || fail "not '$1': $(cat printed errors)"
}
value() { "$leanvm" stat balloon --json | jq -e ".$1"; }
find_machine() { machine=$(jq -r .pid <("$leanvm" info balloon --json)); }
# Bytes of the host that the guest's memory takes.
used() {
  local entry
  for entry in "/proc/$machine/fd"/*; do
    [[ $(readlink "$entry") == /memfd:guest-ram* ]] || continue
    echo $(($(stat -L -c %b "$entry") * 512))
    return
  done
  fail "no memory file: $(ls -l "/proc/$machine/fd")"
}
resident() {  # its pages in the machine's own tables
  awk '/guest-ram/ { ours = 1 } /^Rss:/ && ours { sum += $2; ours = 0 } END { print sum * 1024 }' \
    "/proc/$machine/smaps"
}
mib=$((1 << 20)) slack=$((256 << 10))
near() { [[ $(($1 - $2)) -le $slack && $(($2 - $1)) -le $slack ]]; }

start run --name balloon --kernel "$kernel" --memory 32M --cmdline test=balloon
wait_for filled
find_machine
full=$(used)
touched=$(resident)
[[ $full -ge $((12 * mib)) && $touched -ge $((12 * mib)) ]] || fail "12 MiB were touched, $full are used"
sleep 0.3
near "$(used)" "$full" || fail "memory falls unasked"  # the judge would see it

"$leanvm" balloon balloon 4M
wait_for gave
now=$(used)
near "$now" $((full - 4 * mib)) || fail "inflated: $now of $full bytes are used"
near "$(resident)" $((touched - 4 * mib)) || fail "inflated: $(resident) of $touched bytes are resident"
[[ $(value balloon_target_bytes) -eq $((4 * mib)) && $(value balloon_bytes) -eq $((4 * mib)) &&
  $(value released_bytes) -eq $((4 * mib)) && $(value memory_used_bytes) -eq $now ]] ||
  fail "figures: $("$leanvm" stat balloon --json)"
say "inflated: $full bytes, then $now"

"$leanvm" save balloon state || fail "cannot be saved: $(cat errors)"
wait "${children[0]}" || fail "saved: $(cat errors)"
start restore state
up() { "$leanvm" info balloon >/dev/null 2>&1 || ! kill -0 "${children[0]}" 2>/dev/null; }
wait_until 120 up
find_machine
[[ $(value balloon_target_bytes) -eq $((4 * mib)) && $(value balloon_bytes) -eq $((4 * mib)) ]] ||
  fail "restored: $("$leanvm" stat balloon --json)"
now=$(used)
[[ $now -le $((full - 4 * mib + slack)) ]] || fail "restored: $now of $full bytes are used"
say "restored: $now bytes"

"$leanvm" balloon balloon 0
wait_for 'has all'
again=$(used)
near "$again" $((now + 4 * mib)) || fail "deflated: $again bytes, $now before"
[[ $(value balloon_bytes) -eq 0 ]] || fail "deflated: $("$leanvm" stat balloon --json)"
say "deflated: $again bytes"

"$leanvm" balloon balloon 4K
wait_for reported
now=$(used)
near "$now" $((again - 4 * mib)) || fail "reported: $now bytes, $again before"
say "reported: $now bytes"

# refused PATTERN SIZE
refused() {
  local status=0
  "$leanvm" balloon balloon "$2" 2>err || status=$?
  [[ $status -eq 1 ]] && grep -q "$1" err || fail "balloon $2: status $status: $(cat err)"
}
refused 'is asked for 33 MiB of memory and has 32 MiB' 33M
refused 'balloon wants size=' much

"$leanvm" stop balloon
wait "${children[0]}" || fail "$(cat printed errors)"
grep -qx 'testguest: passed' printed || fail "$(cat printed errors)"
grep -q 'balloon: its driver broke the rules: a page that is not in guest memory' errors ||
  fail "a page that is none: $(cat errors)"
finish
