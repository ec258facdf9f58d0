#!/bin/bash
# leanvm's network card by vhost-user with a back end that is not ours: DPDK's testpmd, which
# passes packets between the card and a tap interface of its own. The test guest sends back
# what it gets; the judge is a raw socket on the interface, in a network namespace of the
# script's own. DPDK keeps no notes of what it has taken: its death is seen.
if [[ ${1:-} != inside && $EUID -eq 0 ]]; then
  exec unshare --net "$0" inside
fi
source "$(dirname "$0")/../lib/harness.sh"
leanvm=$build/vmm/leanvm
kernel=$build/subprojects/testguest/testguest.elf
judge=$(realpath "$(dirname "$0")/../lib/packet_judge.py")

need dpdk-testpmd ip python3 jq taskset
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
[[ -w /dev/net/tun ]] || skip "no /dev/net/tun"
begin
cd "$work"
choose_seed
socket=$work/socket address=52:54:00:12:34:56 name=vhost-net-$$
ip link set lo up
sysctl -qw net.ipv6.conf.default.disable_ipv6=1

# It ends when its standard input does.
mkfifo keys
exec 7<>keys
start_testpmd() {
  local cores
  cores=$(taskset -pc $$)
  cores="(${cores##*: })"
  rm -f "$socket"
  dpdk-testpmd --no-huge -m 256 --no-pci --no-shconf --no-telemetry --lcores "0@$cores,1@$cores" \
    --vdev "net_vhost0,iface=$socket" --vdev net_tap0,iface=tap0 \
    -- --forward-mode=io --auto-start --total-num-mbufs=4096 <keys >testpmd.log 2>&1 &
  testpmd=$!
  children+=("$testpmd")
  wait_until 120 forwards || fail "testpmd: $(cat testpmd.log)"
  kill -0 "$testpmd" 2>/dev/null || fail "testpmd: $(cat testpmd.log)"
}
forwards() {
  ! kill -0 "$testpmd" 2>/dev/null || { [[ -S $socket ]] && ip -o link show tap0 2>/dev/null | grep -q '[<,]UP[,>]'; }
}

start_guest() {  # start_guest NAME
  timeout 600 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline test=net \
    --net "vhost-user=$socket,mac=$address" --name "$name" </dev/null >"$1.out" 2>"$1.err" &
  vm=$!
  children+=("$vm")
}
heard() { grep -qs "mergeable $2" "$1.out" || ! kill -0 "$vm" 2>/dev/null; }
listens() {  # listens NAME MODE
  wait_until 120 heard "$1" "$2" || fail "$1: the guest does not listen: $(cat "$1.out" "$1.err")"
  kill -0 "$vm" 2>/dev/null || fail "$1: the machine ended: $(cat "$1.out" "$1.err")"
}
come_back() {  # come_back NAME MODE [end]: packets; "end": the guest's mode ends with them
  python3 "$judge" tap0 "$address" "${COUNT:-200}" "$seed" ${3:-} >judge.log 2>&1 ||
    fail "$1, mode $2: $(cat judge.log "$1.out" "$1.err"; tail -n 20 testpmd.log)"
  say "$1, mode $2: $(cat judge.log)"
}

start_testpmd
for round in first second; do  # the second finds a back end that has served another
  start_guest "$round"
  for mode in 0 1; do
    listens "$round" "$mode"
    come_back "$round" "$mode"
    "$leanvm" pause "$name" || fail "$round: pause"
    "$leanvm" resume "$name" || fail "$round: resume"
    come_back "$round, after a pause" "$mode" end
  done
  status=0
  wait "$vm" || status=$?
  [[ $status -eq 0 ]] && grep -qx 'testguest: passed' "$round.out" || fail "$(cat "$round.out" "$round.err")"
done

start_guest killed
listens killed 0
[[ $("$leanvm" info --json "$name" | jq -r '.nets[0].mac') == "$address" ]] || fail "info"
come_back killed 0
kill -9 "$testpmd"
wait "$testpmd" 2>/dev/null || true
start_testpmd
wait "$vm" || true
! grep -qx 'testguest: passed' killed.out && grep -q 'is broken' killed.out ||
  fail "a back end without notes was replaced unseen: $(cat killed.out)"
grep -q 'keeps no notes' killed.err || fail "no word about it: $(cat killed.err)"
say "killed: seen"
kill "$testpmd"
wait "$testpmd" 2>/dev/null || true
finish
