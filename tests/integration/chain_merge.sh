#!/bin/bash
# Commits and deletions: of a chain at rest and of one that is being served, under
# fio's verification, and killed with -9 in the middle and given again. The judges are
# flat copies.
#
# ROUNDS is how often a server is killed, in commits and deletions by turns; with
# VERB=commit only in commits, and only those rounds count that cut one short.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

begin
need nbdkit nbdsh qemu-img fio jq
need_space 4096
source "$(dirname "$0")/../lib/chain_server.sh"
rounds=${ROUNDS:-10}

change() {  # change SEED FLAT [COUNT]: writes the same to the chain, which is served, and to FLAT
  nbdsh -u "$uri" -c "
import random
random.seed($1)
with open('$2', 'r+b') as flat:
    for step in range(${3:-300}):
        length = random.choice([512, 4096, 20000, 65536])
        offset = random.randrange(h.get_size() - length)
        flat.seek(offset)
        if random.randrange(5):
            data = random.randbytes(length)
            h.pwrite(data, offset)
            flat.write(data)
        else:
            h.trim(length, offset)
            flat.write(bytes(length))
    h.flush()
"
}
same() {  # same LAYER FLAT: by our own eyes and by others'
  "$cowchain" compare --raw "$1" "$2" >"$work/compare" || fail "$1: $(head -3 "$work/compare")"
  nbdkit -f -U - "$plugin" "$1" --run "qemu-img compare -q -f raw -F raw \"\$uri\" '$2'" ||
    fail "$1 and $2 differ"
}
expect_error() {  # expect_error TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/error.log" 2>&1; then fail "'$*' succeeded"; fi
  grep -q -- "$text" "$work/error.log" || fail "'$*' says: $(cat "$work/error.log")"
}
allocated() { du -sB1 "$1" | cut -f1; }

say "at rest: a checkpoint in the middle goes, the top goes down, all else stays"
"$cowchain" create "$top" --size 64M
truncate -s 64M "$work/flat"
for i in 1 2 3 4; do
  start
  change "$i" "$work/flat"
  stop
  "$cowchain" checkpoint "$top" "c$i"
  cp --sparse=always "$work/flat" "$work/flat.$i"
done
start
change 5 "$work/flat"
stop
"$cowchain" delete "$top" c2
[[ ! -e $top.c2 ]] || fail "the deleted checkpoint's file is there"
"$cowchain" delete "$top" c4
for i in 1 3; do same "$top.c$i" "$work/flat.$i"; done
same "$top" "$work/flat"
"$cowchain" commit "$top" --copy-first "$work/kept.c3"
same "$top" "$work/flat"
same "$top.c3" "$work/flat"
same "$top.c1" "$work/flat.1"
same "$work/kept.c3" "$work/flat.3"
[[ ! -e $top.commit ]] || fail "a commit leaves its file"
"$cowchain" verify "$top" >"$work/verify" || fail "$(cat "$work/verify")"
[[ $("$cowchain" map --json "$top" | jq '[.[] | .length] | add') -eq $((64 << 20)) ]] ||
  fail "the map does not cover the disk"

say "refusals"
"$cowchain" create "$work/clone.layer" --parent "$top.c1"
mkdir "$work/elsewhere"
"$cowchain" create "$work/elsewhere/far.layer" --parent "$top.c3"
expect_error "clone.layer' stands on it" "$cowchain" delete "$top" c1
expect_error "far.layer.*stands on it" "$cowchain" commit "$top"
rm "$work/clone.layer" "$work/elsewhere/far.layer"
expect_error "no checkpoint" "$cowchain" delete "$top" none
expect_error "is the top" "$cowchain" delete "$top" disk.layer
"$cowchain" create "$work/alone.layer" --size 1M
expect_error "stands on nothing" "$cowchain" commit "$work/alone.layer"
expect_error "is sealed" "$cowchain" commit "$top.c1"
mv "$top.c1" "$work/hidden"
expect_error "its parent '.*disk.layer.c1' is missing" "$cowchain" info "$top"
mv "$work/hidden" "$top.c1"

say "flat copies: raw and as a layer"
"$cowchain" flatten "$top" "$work/one.raw" --raw
cmp "$work/one.raw" "$work/flat" || fail "the raw copy differs"
"$cowchain" flatten "$top" "$work/one.layer"
same "$work/one.layer" "$work/flat"
cp --sparse=always "$work/one.layer" "$work/bad.layer"
offset=$("$cowchain" map --json "$work/bad.layer" | jq '[.[] | select(.kind == "data")][0].file_offset')
printf 'x' | dd of="$work/bad.layer" bs=1 seek="$((offset + 100))" conv=notrunc status=none
expect_error "bad.layer', offset $offset: block .* fails its checksum" "$cowchain" verify "$work/bad.layer"

say "into a raw file"
cp --sparse=always "$work/flat" "$work/golden.img"
"$cowchain" create "$work/vm.layer" --base "$work/golden.img"
saved=$top top=$work/vm.layer
cp --sparse=always "$work/flat" "$work/flat.vm"
start
change 6 "$work/flat.vm"
"$cowchain" commit "$top"
change 7 "$work/flat.vm"
stop
same "$top" "$work/flat.vm"
"$cowchain" commit "$top"
cmp "$work/golden.img" "$work/flat.vm" || fail "the raw parent differs"
same "$top" "$work/flat.vm"
top=$saved

say "served: fio verifies while checkpoints come, go down and go"
start
fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --size=48m --iodepth=16 \
  --verify=xxhash --verify_fatal=1 --time_based --runtime=12 >"$work/fio.log" 2>&1 &
load=$!
commits=0 deletions=0
while kill -0 "$load" 2>/dev/null; do
  "$cowchain" checkpoint "$top" "a$commits"
  "$cowchain" checkpoint "$top" "b$commits"
  "$cowchain" delete "$top" "a$commits" && deletions=$((deletions + 1))
  "$cowchain" commit "$top" && commits=$((commits + 1))
  "$cowchain" delete "$top" "b$((commits - 1))" && deletions=$((deletions + 1))
done
wait "$load" || { cat "$work/fio.log"; fail "fio's verification"; }
[[ $commits -ge 2 && $deletions -ge 4 ]] || fail "only $commits commits, $deletions deletions"
say "$commits commits, $deletions deletions under load"

say "trimmed space comes back to the host"
nbdsh -u "$uri" -c 'h.pwrite(b"y" * (8 << 20), 48 << 20); h.flush()'
before=$(allocated "$top")
nbdsh -u "$uri" -c 'h.trim(8 << 20, 48 << 20); h.flush()'
back() { [[ $(allocated "$top") -le $((before - (7 << 20))) ]]; }
wait_until 10 back || fail "$(allocated "$top") bytes of $before are still taken"
nbdcopy "$uri" "$work/flat"
stop

verb=${VERB:-both}
say "kill -9 in ${verb/both/commits and deletions}, $rounds times"
cut=0 tried=0
begun() { [[ -e $top.new || -e $top.commit ]]; }  # a commit, and not ended
# round NAME VERB: a checkpoint NAME, changes, and a command that is killed with its server.
round() {
  local name=$1 command asked
  start
  change "$((100 + tried))" "$work/flat" 150
  "$cowchain" checkpoint "$top" "$name"
  cp --sparse=always "$work/flat" "$work/flat.k"
  change "$((5000 + tried))" "$work/flat" 400
  if [[ $2 == commit ]]; then command=(commit "$top"); else command=(delete "$top" "$name"); fi
  "$cowchain" "${command[@]}" 2>"$work/verb.log" &
  asked=$!
  if [[ $verb == commit ]]; then
    until begun || ! kill -0 "$asked" 2>/dev/null; do sleep 0.001; done
    sleep "0.0$((RANDOM % 4))$((RANDOM % 10))"
  else
    sleep "0.0$((RANDOM % 8))$((RANDOM % 10))"
  fi
  stop -9
  if ! wait "$asked"; then
    if [[ $verb == both ]] || begun; then cut=$((cut + 1)); fi
  fi
  same "$top" "$work/flat"
  if ! "$cowchain" "${command[@]}" 2>"$work/again.log"; then
    grep -q "no checkpoint" "$work/again.log" || fail "round $tried, again: $(cat "$work/again.log")"
  fi
  same "$top" "$work/flat"
  if [[ $2 == commit ]]; then
    same "$top.$name" "$work/flat"
    "$cowchain" delete "$top" "$name"
  fi
  [[ ! -e $top.$name && ! -e $top.commit ]] || fail "round $tried leaves a file"
  "$cowchain" verify "$top" >"$work/verify" || fail "round $tried: $(cat "$work/verify")"
}
if [[ $verb == commit ]]; then
  while [[ $cut -lt $rounds ]]; do
    [[ $((tried++)) -lt $((5 * rounds)) ]] || fail "only $cut of $tried commits were cut short"
    round "k$tried" commit
  done
else
  while [[ $((tried++)) -lt $rounds ]]; do
    if ((tried % 2)); then round "k$tried" commit; else round "k$tried" delete; fi
  done
  tried=$rounds
fi
say "$cut of $tried were cut short"
[[ $cut -ge $((rounds / 5)) ]] || fail "too few were cut short to show anything"
finish
