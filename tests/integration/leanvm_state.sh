#!/bin/bash
# leanvm save and restore with the test guest, on whatever /dev/kvm is here: the guest
# counts in registers, memory, on its disk and its console, through many processes. The
# judge counts what was printed and what the disk has: no step is lost, none comes twice.
# A file that is cut short or has a wrong bit is refused and leaves nothing behind.
#
# ROUNDS: how often it is saved and restored, with each kind of disk.
source "$(dirname "$0")/../lib/harness.sh"
leanvm=$build/vmm/leanvm
cowchain=$build/blockdev/tools/cowchain
kernel=$build/subprojects/testguest/testguest.elf
rounds=${ROUNDS:-20}

need python3 jq
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
begin
cd "$work"
export LEANVM_RUN=$work/run

# judge PRINTED [DISK]: the steps from 1 on, each once, the sums right; the disk has the
# last of each place. Prints how many.
judge() {
  python3 - "$@" <<'END'
import struct, sys
lines = open(sys.argv[1], 'rb').read().replace(b'\r', b'').split(b'\n')
lines = [line for line in lines if line.startswith(b'step ')]
total, sums = 0, [0]
for number, line in enumerate(lines, 1):
    total = (total ^ number) * 2654435761 % 2**32
    if line != b'step %d %d' % (number, total):
        sys.exit(f'line {number} is {line}, not step {number} {total}')
    sums.append(total)
if len(sys.argv) > 2:
    with open(sys.argv[2], 'rb') as disk:
        for place in range(64):
            last = max((n for n in range(max(1, len(lines) - 64), len(lines) + 1) if n % 64 == place), default=0)
            disk.seek(place * 4096)
            step, total = struct.unpack('<II', disk.read(8))
            if last and (step, total) != (last, sums[last]):
                sys.exit(f'place {place} of the disk has step {step}, not {last}')
print(len(lines))
END
}
steps() { grep -c '^step ' printed || true; }
more_steps() { [[ $(steps) -ge $1 ]]; }

machine=''
# start VERB ARGUMENT...: the machine, in a new process; what it prints goes behind what
# it printed before.
start() {
  timeout 600 "$leanvm" "$@" </dev/null >>printed 2>>errors &
  machine=$!
  children=("$machine")  # the one before has ended
}
ended() {
  local status=0
  wait "$machine" || status=$?
  [[ $status -eq $1 ]] || fail "exit status $status, not $1: $(tail -3 printed errors)"
}
goes_on() {  # COUNT more steps than there are now
  local wanted=$(($(steps) + $1))
  wait_until 120 more_steps "$wanted" || fail "the guest stands still: $(tail -3 printed errors)"
}

# rounds_with NAME DISK...: from power-on to the power button.
rounds_with() {
  local name=$1 round
  shift
  : >printed
  : >errors
  start run --name "$name" --kernel "$kernel" --memory 32M --cpus 2 --cmdline test=steps --disk "$@"
  for ((round = 0; round < rounds; ++round)); do
    goes_on $((1 + RANDOM % 5))
    [[ $((round % 5)) -ne 4 ]] || "$leanvm" pause "$name"
    "$leanvm" save "$name" state || fail "$name: cannot be saved: $(cat errors)"
    ended 0
    start restore state
  done
  goes_on 1
  "$leanvm" stop "$name"
  ended 0
  grep -q '^testguest: passed' printed || fail "$name: $(tail -3 printed errors)"
}

truncate -s 8M raw.img
rounds_with raw raw.img,raw,queues=2
count=$(judge printed raw.img) || fail "raw: $count"
[[ $count -gt $rounds ]] || fail "raw: only $count steps"
say "raw: $rounds rounds, $count steps, each once"
sed '7d' printed >lost
sed '7p' printed >twice
for wrong in lost twice; do
  ! judge "$wrong" 2>/dev/null || fail "the judge does not see a step that is $wrong"
done

"$cowchain" create chain.layer --size 8M
rounds_with chain chain.layer
"$cowchain" flatten chain.layer chain.img --raw
count=$(judge printed chain.img) || fail "chain: $count"
"$cowchain" verify chain.layer >/dev/null || fail "chain: not sound"
say "chain: $rounds rounds, $count steps, each once"

# A machine that cannot be written goes on, and nothing is left of the file.
truncate -s 8M raw.img
: >printed
: >errors
start run --name one --kernel "$kernel" --memory 32M --cmdline test=steps --disk raw.img,raw
goes_on 3
status=0
"$leanvm" save one "$work/none/state" 2>err || status=$?
[[ $status -eq 1 ]] && grep -q "cannot create '.*none/state'" err || fail "no directory: $(cat err)"
goes_on 3
say "no directory: $(cat err)"
if mkdir small && mount -t tmpfs -o size=64k none small 2>/dev/null; then
  status=0
  "$leanvm" save one small/state 2>err || status=$?
  left=$(ls -A small)
  umount small
  [[ $status -eq 1 && -z $left ]] && grep -q 'No space left' err || fail "no space: $(cat err) $left"
  goes_on 3
  say "no space: $(cat err)"
fi
"$leanvm" save one state
ended 0
judge printed raw.img >/dev/null || fail "one: other steps"
cp raw.img before.img

# refused WHAT FILE PATTERN
refused() {
  local what=$1 file=$2 pattern=$3 status=0
  timeout 60 "$leanvm" restore "$file" </dev/null >out 2>err || status=$?
  [[ $status -eq 1 && ! -s out ]] || fail "$what: exit status $status: $(cat out err)"
  grep -qE -- "$pattern" err || fail "$what: the message must match '$pattern': $(cat err)"
  [[ -z $(ls -A "$LEANVM_RUN") ]] || fail "$what: left behind: $(ls -A "$LEANVM_RUN")"
}
size=$(stat -c %s state)
for ((i = 0; i < 12; ++i)); do
  at=$((i < 3 ? 8 * i : RANDOM * RANDOM % size))
  head -c "$at" state >bad
  refused "cut at $at" bad "cut short"
done
say "cut short: $(cat err)"
for ((i = 0; i < 24; ++i)); do
  at=$((i < 8 ? 6 * i : RANDOM * RANDOM % size))
  cp state bad
  byte=$(od -An -tu1 -j "$at" -N 1 state)
  printf "\\x$(printf %x $((byte ^ 1 << RANDOM % 8)))" | dd of=bad bs=1 seek="$at" conv=notrunc status=none
  refused "a wrong bit in byte $at" bad "damaged|is not a saved machine|cut short"
done
say "a wrong bit: $(cat err)"
{ cat state; echo; } >bad
refused "more than all" bad "behind its end"
refused "no file" none "cannot open 'none'"
refused "another file" raw.img "is not a saved machine"
mv raw.img away.img
refused "no disk" state "raw.img"
truncate -s 4M raw.img
refused "a smaller disk" state "its size or another property has changed"
mv away.img raw.img
cmp raw.img before.img || fail "a refused machine wrote to its disk"

# The file is still good, and its machine can have another name.
start restore --name two state
goes_on 3
"$leanvm" stop two
ended 0
judge printed raw.img >/dev/null || fail "two: other steps"
say "restored once more: $(steps) steps"
[[ $(ls -d state*) == state ]] || fail "left behind: $(ls -d state*)"
finish
