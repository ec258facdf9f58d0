#!/bin/bash
# A chain and a qcow2 with overlays that live the same life: the same requests by NBD, a
# checkpoint where the other gets an overlay, a deletion where the other is rebased, a
# commit where the other commits. Then `qemu-img compare` must find the two disks, and
# each checkpoint and its overlay, the same.
#
# ROUNDS is how often the layers change.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

begin
need nbdkit nbdsh qemu-img qemu-nbd
need_space 1024
choose_seed
export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$build/blockdev/tools/cowchain
plugin=$build/blockdev/nbdkit/nbdkit-cowchain-plugin.so
top=$work/disk.layer rounds=${ROUNDS:-12} size=24M
names=()      # of the checkpoints, from the lowest up
overlay() { echo "$work/overlay.$1"; }  # the qcow2 file of a checkpoint, or of "top"

changes=$(realpath "$(dirname "$0")/../lib/disk_changes.py")
change() {  # change SEED: both disks
  CHANGES=$1 nbdkit -f -U - "$plugin" "$top" --run "nbdsh -u \"\$uri\" -c - <'$changes'" ||
    fail "changes on the chain"
  qemu-nbd --persistent --format qcow2 --discard unmap --socket "$work/socket" "$(overlay top)" \
    2>"$work/qemu-nbd.log" &
  children=("$!")
  wait_until 10 test -S "$work/socket" || fail "qemu-nbd: $(cat "$work/qemu-nbd.log")"
  CHANGES=$1 nbdsh -u "nbd+unix:///?socket=$work/socket" -c - <"$changes" || fail "changes on the qcow2"
  kill "${children[0]}"
  wait "${children[0]}" || fail "qemu-nbd: $(cat "$work/qemu-nbd.log")"
  children=()
  rm -f "$work/socket"
}
same() {  # same LAYER OVERLAY
  nbdkit -f -U - "$plugin" "$1" --run "qemu-img compare -q -f raw -F qcow2 \"\$uri\" '$2'" ||
    fail "$1 and $2 differ"
}
new_overlay() {  # new_overlay BACKING
  qemu-img create -q -f qcow2 -b "$1" -F qcow2 "$(overlay top)"
}

"$cowchain" create "$top" --size "$size"
qemu-img create -q -f qcow2 "$(overlay top)" "$size"
checkpoints=0 deletions=0 commits=0
for ((round = 1; round <= rounds; round++)); do
  change $((seed + round))
  same "$top" "$(overlay top)"
  count=${#names[@]}
  choice=$((RANDOM % 10))
  if [[ $count -lt 3 || ($choice -lt 4 && $count -lt 20) ]]; then
    name=c$((checkpoints++))
    "$cowchain" checkpoint "$top" "$name"
    mv "$(overlay top)" "$(overlay "$name")"
    new_overlay "$(overlay "$name")"
    names+=("$name")
  elif [[ $choice -lt 7 ]]; then
    place=$((RANDOM % count)) above=top below=
    name=${names[place]}
    [[ $place -eq $((count - 1)) ]] || above=${names[place + 1]}
    [[ $place -eq 0 ]] || below=$(overlay "${names[place - 1]}")
    "$cowchain" delete "$top" "$name"
    qemu-img rebase -q -f qcow2 -b "$below" ${below:+-F qcow2} "$(overlay "$above")"
    rm "$(overlay "$name")"
    names=("${names[@]:0:place}" "${names[@]:place+1}")
    deletions=$((deletions + 1))
  else
    "$cowchain" commit "$top"
    qemu-img commit -q -f qcow2 "$(overlay top)"
    commits=$((commits + 1))
  fi
  same "$top" "$(overlay top)"
  for name in "${names[@]}"; do same "$top.$name" "$(overlay "$name")"; done
done
change $((seed + round))
same "$top" "$(overlay top)"
finish "$checkpoints checkpoints, $deletions deletions, $commits commits: as the qcow2"
