#!/bin/bash
# leanvm's network card on a tap interface: the test guest sends back what it gets, also
# when it was saved meanwhile; the judge is a raw socket on the interface, in a network
# namespace of the script's own.
if [[ ${1:-} != inside && $EUID -eq 0 ]]; then
  exec unshare --net "$0" inside
fi
source "$(dirname "$0")/../lib/harness.sh"
leanvm=$build/vmm/leanvm
kernel=$build/subprojects/testguest/testguest.elf
judge=$(realpath "$(dirname "$0")/../lib/packet_judge.py")

need ip python3 jq
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
[[ -w /dev/net/tun ]] || skip "no /dev/net/tun"
begin
cd "$work"
choose_seed

ip tuntap add dev tap0 mode tap vnet_hdr
ip link set lo up
sysctl -qw net.ipv6.conf.tap0.disable_ipv6=1
ip link set tap0 up
address=52:54:00:12:34:56
start() {  # start VERB ARGUMENT...: the machine, in a new process
  timeout 500 "$leanvm" "$@" </dev/null >>guest.log 2>>guest.err &
  vm=$!
  children=("$vm")
}
start run --kernel "$kernel" --memory 32M --cmdline test=net \
  --net "tap=tap0,mac=$address" --name net-$$
heard() { grep -q "mergeable $1" guest.log || ! kill -0 "$vm" 2>/dev/null; }
wait_until 120 heard 0 || fail "the guest does not listen: $(cat guest.log guest.err)"
[[ $("$leanvm" info --json net-$$ | jq -r '.nets[0].mac') == "$address" ]] || fail "info"
# The restored machine has the interface, and the host knows.
is_connected() {
  "$leanvm" info net-$$ >/dev/null 2>&1 && ip -oneline link show tap0 | grep -q 'LOWER_UP.* state UP'
}
echo_packets() {  # echo_packets [end]
  python3 "$judge" tap0 "$address" "${COUNT:-200}" "$seed" "$@" >judge.log 2>&1 ||
    fail "mode $mode: $(cat judge.log guest.log guest.err)"
  say "mode $mode: $(cat judge.log)"
}
for mode in 0 1; do
  wait_until 120 heard "$mode" || fail "the guest does not listen: $(cat guest.log guest.err)"
  for round in 1 2 3; do
    echo_packets
    "$leanvm" save net-$$ state || fail "cannot be saved: $(cat guest.err)"
    wait "$vm" || fail "saved: exit status $?: $(cat guest.err)"
    start restore state
    wait_until 120 is_connected || fail "restored: $(cat guest.err)"
  done
  echo_packets end
done
status=0
wait "$vm" || status=$?
[[ $status -eq 0 ]] && grep -qx 'testguest: passed' guest.log || fail "$(cat guest.log guest.err)"

# --- bad input, each with its own message ---
refused() {  # refused STATUS WORDS ARGUMENT...
  local want=$1 words=$2 status=0
  shift 2
  timeout 60 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline test=none "$@" \
    </dev/null >refused.log 2>&1 || status=$?
  [[ $status -eq $want ]] && grep -q "$words" refused.log || fail "$*: status $status: $(cat refused.log)"
}
refused 1 'is meant' --net bridge=br0
refused 1 'address of a network card' --net tap=tap0,mac=52:54
refused 1 'a name has 1 to 15' --net tap=aVeryLongInterfaceName
refused 1 "cannot open the tap interface 'lo'" --net tap=lo
finish
