#!/bin/bash
# leanvm with the test guest, on whatever /dev/kvm is here: each kind of disk, power-off
# and reset, a driver that lies, what is typed; and each bad input with a message of its
# own. The judge of a disk's content is not the guest: it is read here.
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"
leanvm=$build/vmm/leanvm
cowchain=$build/blockdev/tools/cowchain
kernel=$build/subprojects/testguest/testguest.elf

need nbdkit nbdinfo python3 jq curl
[[ -w /dev/kvm ]] || skip "no /dev/kvm"
begin
cd "$work"

# guest NAME TEST ARGUMENT...: runs the guest's test; its output is in NAME.
guest() {
  local name=$1 test=$2 status=0
  shift 2
  timeout 300 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline "test=$test" "$@" \
    <"${input:-/dev/null}" >"$name" 2>"$name.err" || status=$?
  [[ $status -eq 0 ]] || fail "$name: exit status $status: $(cat "$name" "$name.err")"
  grep -qx 'testguest: passed' "$name" || fail "$name: $(cat "$name" "$name.err")"
  say "$name: passed"
}

# has_pattern FILE: what the guest's test "disk" writes, computed apart from it.
has_pattern() {
  python3 - "$1" <<'END'
import struct, sys
data = open(sys.argv[1], 'rb').read(128 * 1024)
want = b''.join(struct.pack('<I', word * 2654435761 % 2**32 ^ 0x7469646e) for word in range(len(data) // 4))
sys.exit(0 if len(data) == 128 * 1024 and data == want else 1)
END
}
wrong_pattern() { ! has_pattern "$1" || fail "the judge sees no difference"; }

guest bare none
guest bare-2-cpus none --cpus 2

truncate -s 8M raw.img
wrong_pattern raw.img
guest raw disk --disk raw.img,raw
has_pattern raw.img || fail "raw: other data"
printf x | dd of=raw.img bs=1 seek=70000 conv=notrunc status=none
wrong_pattern raw.img
guest read-only refused --disk raw.img,raw,ro
guest queues disk --disk raw.img,raw,queues=4
has_pattern raw.img || fail "queues: other data"

create_pool 256M
mount_pool
make_disk vm1/a.img 8M
guest elastic disk --disk "$disk,raw"
has_pattern "$disk" || fail "elastic: other data"

"$cowchain" create chain.layer --size 8M
guest chain disk --disk chain.layer
"$cowchain" flatten chain.layer chain.img --raw
has_pattern chain.img || fail "chain: other data"
"$cowchain" verify chain.layer >/dev/null || fail "chain: not sound"

truncate -s 8M scsi.img
guest scsi scsi --scsi scsi.img,raw
has_pattern scsi.img || fail "scsi: other data"
printf x | dd of=scsi.img bs=1 seek=70000 conv=notrunc status=none
wrong_pattern scsi.img
"$cowchain" create scsi.layer --size 8M
guest scsi-chain scsi --scsi scsi.layer --scsi scsi.img,raw,ro
"$cowchain" flatten scsi.layer scsi-flat.img --raw
has_pattern scsi-flat.img || fail "scsi-chain: other data"
wrong_pattern scsi.img
guest scsi-lies scsi-lies --scsi scsi.img,raw
[[ $(grep -c 'broke the rules' scsi-lies.err) -eq 3 ]] || fail "scsi-lies: $(cat scsi-lies.err)"

truncate -s 8M nbd.img
serve_nbd "nbd+unix:///?socket=$work/nbd.socket" file nbd.img
guest nbd disk --disk "nbd+unix:///?socket=$work/nbd.socket"
stop_nbd "$server"
has_pattern nbd.img || fail "nbd: other data"

truncate -s 8M reboot.img
guest reboot reboot --disk reboot.img,raw
[[ $(grep -c 'boots before this one' reboot) -eq 2 ]] || fail "reboot: $(cat reboot)"
status=0
truncate -s 0 reboot.img
truncate -s 8M reboot.img
timeout 300 "$leanvm" run --no-reboot --kernel "$kernel" --memory 32M --cmdline test=reboot \
  --disk reboot.img,raw </dev/null >no-reboot 2>&1 || status=$?
[[ $status -eq 0 && $(grep -c 'boots before this one' no-reboot) -eq 1 ]] || fail "no-reboot: $(cat no-reboot)"
say "no-reboot: passed"

guest lies lies --disk raw.img,raw
guest hostile hostile --disk raw.img,raw
[[ -s hostile.err ]] || fail "hostile: no rule was broken"

mkfifo keys
timeout 300 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline test=echo <keys >echo 2>&1 &
children+=($!)
exec 3>keys
wait_until 60 grep -q listening echo || fail "echo: $(cat echo)"
printf 'a line\n' >&3
exec 3>&-
wait "${children[-1]}" || fail "echo: $(cat echo)"
grep -qx 'testguest: heard a line' echo || fail "echo: $(cat echo)"
say "echo: passed"

# The console of a machine that runs elsewhere, for two at once; the later one sees what was
# printed before it came.
export LEANVM_RUN=$work/run-shown
mkfifo typed
touch shown watched watched-too
"$leanvm" run --name shown --kernel "$kernel" --memory 32M --cmdline test=echo </dev/null >shown 2>&1 &
shown=$!
children+=("$shown")
wait_until 60 grep -q listening shown || fail "console: $(cat shown)"
timeout 300 "$leanvm" console shown <typed >watched 2>&1 &
watcher=$!
children+=("$watcher")
exec 3>typed
wait_until 60 grep -q listening watched || fail "console: $(cat watched)"
timeout 300 "$leanvm" console shown </dev/null >watched-too 2>&1 &
watcher_too=$!
children+=("$watcher_too")
wait_until 60 grep -q listening watched-too || fail "console: $(cat watched-too)"
printf 'a line\n' >&3
wait "$shown" || fail "console: $(cat shown)"
exec 3>&-
wait "$watcher" || fail "console: $(cat watched)"
wait "$watcher_too" || fail "console: $(cat watched-too)"
cmp shown watched && cmp shown watched-too || fail "console: $(cat shown watched watched-too)"
grep -qx 'testguest: heard a line' watched || fail "console: $(cat watched)"
[[ ! -e $LEANVM_RUN/shown.console ]] || fail "console: its socket stays"
status=0
"$leanvm" console shown </dev/null >out 2>err || status=$?
[[ $status -eq 1 ]] && grep -q "no machine with the name 'shown' runs" err || fail "console: $(cat err)"
say "console: passed"

# A machine that is told to stop ends with its disks whole and unlocked.
timeout 300 "$leanvm" run --kernel "$kernel" --memory 32M --cmdline test=echo --disk raw.img,raw \
  </dev/null >stopped 2>&1 &
vm_pid=$!
children+=("$vm_pid")
wait_until 60 grep -q listening stopped || fail "stopped: $(cat stopped)"

# The verbs: a machine is seen, paused (it says nothing more), resumed, turned off.
export LEANVM_RUN=$work/run
"$leanvm" run --name one --kernel "$kernel" --memory 32M --cmdline test=button \
  --disk reboot.img,raw,ro </dev/null >button 2>&1 &
button=$!
children+=("$button")
wait_until 60 grep -q waiting button || fail "button: $(cat button)"
info() { "$leanvm" info one --json | jq -e ".$1"; }
[[ $("$leanvm" list --json | jq -r '.[].name') == one && $("$leanvm" list) == *one*running*32\ MiB*reboot.img* ]] ||
  fail "list: $("$leanvm" list)"
[[ $(info pid) -eq $button && $(info 'disks[0].size') -eq $((8 << 20)) && $(info 'memory_writers[0]') == '"vCPUs"' ]] ||
  fail "info: $("$leanvm" info one --json)"
"$leanvm" pause one
"$leanvm" pause one
[[ $(info state) == '"paused"' ]] || fail "pause: $(info state)"
exits=$(info exits)
"$leanvm" stop one  # the button is pressed, and nobody there to see it
sleep 0.3
[[ $(info exits) -eq $exits ]] || fail "a paused machine runs"
kill -0 "$button" || fail "a paused machine ended"
"$leanvm" resume one
wait "$button" || fail "button: $(cat button)"
grep -qx 'testguest: passed' button || fail "button: $(cat button)"
[[ $("$leanvm" list --json) == '[]' ]] || fail "list: $("$leanvm" list)"
timeout 300 "$leanvm" run --name two --kernel "$kernel" --memory 32M --cmdline test=button \
  </dev/null >now 2>&1 &
now=$!
children+=("$now")
wait_until 60 grep -q waiting now || fail "now: $(cat now)"
status=0
"$leanvm" run --name two --kernel "$kernel" </dev/null >out 2>err || status=$?
[[ $status -eq 1 ]] && grep -q "a machine with the name 'two' runs already" err || fail "name: $(cat err)"
"$leanvm" pause two
"$leanvm" stop --now two
status=0
wait "$now" || status=$?
[[ $status -eq 1 ]] || fail "now: exit status $status: $(cat now)"
# What cannot be saved is named, and goes on.
"$leanvm" run --name three --kernel "$kernel" --memory 32M --cmdline test=button --scsi scsi.img,raw \
  </dev/null >unsaved 2>&1 &
unsaved=$!
children+=("$unsaved")
wait_until 60 grep -q waiting unsaved || fail "unsaved: $(cat unsaved)"
[[ $("$leanvm" info three --json | jq -r '.scsi_disks[0].size') -eq $((8 << 20)) &&
  $("$leanvm" list) == *scsi.img* ]] || fail "info: $("$leanvm" info three --json)"
status=0
"$leanvm" save three three.saved >out 2>err || status=$?
[[ $status -eq 1 && ! -e three.saved ]] && grep -q "the machine cannot be saved: 'scsi' cannot" err || fail "save: $(cat err)"
"$leanvm" stop three
wait "$unsaved" || fail "unsaved: $(cat unsaved)"
for verb in info pause resume stop; do
  status=0
  "$leanvm" $verb two 2>err || status=$?
  [[ $status -eq 1 ]] && grep -q "no machine with the name 'two' runs" err || fail "$verb: $(cat err)"
done
say "verbs: passed"

# Figures: what the guest's test "disk" does is known, and the two forms say the same.
truncate -s 8M figures.img
"$leanvm" run --name figures --kernel "$kernel" --memory 32M --cmdline test=load \
  --disk figures.img,raw <>"$work/keys" >figures 2>&1 &
figured=$!
children+=("$figured")
wait_until 60 grep -q loading figures || fail "figures: $(cat figures)"
figure() { "$leanvm" stat figures --json | jq -e ".$1"; }
busy() { [[ $(figure 'devices[0].requests') -gt 100 ]]; }
wait_until 60 busy || fail "figures: $("$leanvm" stat figures --json)"
"$leanvm" pause figures
"$leanvm" stat figures --json >figures.json
"$leanvm" stat figures --prometheus >figures.prom
python3 - figures.json figures.prom <<'END' || fail "figures: $(cat figures.json figures.prom)"
import json, re, sys
figures = json.load(open(sys.argv[1]))
series, kinds = {}, {}
for line in open(sys.argv[2]):
    if line.startswith('# TYPE '):
        kinds[line.split()[2]] = line.split()[3]
    elif not line.startswith('#'):
        name, labels, value = re.fullmatch(r'(\w+)\{(.*)\} (\d+)\n', line).groups()
        assert name in kinds, name
        series[name, tuple(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))] = int(value)
assert all((kind == 'counter') == name.endswith('_total') for name, kind in kinds.items())
vm = ('vm', 'figures')
for reason, count in figures['exits'].items():
    assert series.pop(('leanvm_exits_total', (vm, ('reason', reason)))) == count
for member in 'memory', 'memory_used', 'balloon_target', 'balloon':
    assert series.pop((f'leanvm_{member}_bytes', (vm,))) == figures[f'{member}_bytes']
assert series.pop(('leanvm_released_bytes_total', (vm,))) == figures['released_bytes']
for device in figures['devices']:
    of = (vm, ('device', device['name']), ('slot', str(device['slot'])))
    for member, name in (('kicks', 'kicks'), ('interrupts', 'interrupts'), ('requests', 'requests'),
                         ('bytes_from_guest', 'from_guest_bytes'), ('bytes_to_guest', 'to_guest_bytes')):
        assert series.pop((f'leanvm_device_{name}_total', of)) == device[member]
assert not series, series
disk = figures['devices'][0]
assert disk['name'].startswith('disk') and disk['slot'] == 1
assert 0 < disk['kicks'] <= disk['requests']
# Of 17 requests 16 write a page and one reads as much, each behind 16 bytes and with one to answer.
rounds = disk['requests'] // 17
per_round = 17 * 16 + 16 * 4096
assert rounds * per_round <= disk['bytes_from_guest'] <= (rounds + 1) * per_round
assert rounds * (16 * 4096 + 17) <= disk['bytes_to_guest'] <= (rounds + 1) * (16 * 4096 + 17)
assert figures['exits']['port'] > 0 and figures['exits']['memory'] > 0
assert 0 < figures['memory_used_bytes'] <= figures['memory_bytes'] == 32 << 20
END
[[ $("$leanvm" stat figures) == *"in use"*"figures.img"*entropy* ]] || fail "figures: $("$leanvm" stat figures)"
curl -sf --unix-socket "$LEANVM_RUN/figures.sock" http://vm/v1/metrics | cmp - figures.prom || fail "curl: other figures"
"$leanvm" stop --now figures
wait "$figured" && fail "figures: $(cat figures)"
say "figures: passed"

# A file says what the command line does; what both say, the command line decides.
truncate -s 8M config.img
cat >config.json <<END
{"kernel": "$kernel", "memory": "32M", "cpus": 2, "cmdline": "test=disk", "no-reboot": true,
 "name": "configured", "disk": ["config.img,raw"]}
END
status=0
timeout 300 "$leanvm" run --config config.json </dev/null >config 2>&1 || status=$?
[[ $status -eq 0 ]] && grep -qx 'testguest: passed' config || fail "config: $(cat config)"
has_pattern config.img || fail "config: other data"
timeout 300 "$leanvm" run --config config.json --cmdline test=button --name named </dev/null >config 2>&1 &
configured=$!
children+=("$configured")
wait_until 60 grep -q waiting config || fail "config: $(cat config)"
[[ $("$leanvm" info named --json | jq -c '[.cpus, .memory, .disks[0].size]') == "[2,$((32 << 20)),$((8 << 20))]" ]] ||
  fail "config: $("$leanvm" info named --json)"
"$leanvm" stop named
wait "$configured" || fail "config: $(cat config)"
say "config: passed"

# refused WHAT STATUS PATTERN ARGUMENT...
refused() {
  local what=$1 want=$2 pattern=$3 status=0
  shift 3
  timeout 60 "$leanvm" run "$@" </dev/null >out 2>err || status=$?
  [[ $status -eq $want ]] || fail "$what: exit status $status, must be $want: $(cat err)"
  grep -qE -- "$pattern" err || fail "$what: the message must match '$pattern': $(cat err)"
  say "$what: $(head -1 err)"
}
head -c 1M /dev/urandom >noise
: >empty
head -c 4096 "$kernel" >short
refused "a disk in use" 1 "'raw.img' is in use by another process" --kernel "$kernel" --disk raw.img,raw
kill -TERM "$vm_pid"
status=0
wait "$vm_pid" || status=$?
[[ $status -ne 0 ]] || fail "stopped: exit status 0"
grep -q 'stopped' stopped || fail "stopped: $(cat stopped)"
guest unlocked none --disk raw.img,raw

refused "no kernel" 1 "cannot read the kernel '/none'" --kernel /none
refused "noise for a kernel" 1 "'noise' is not a kernel" --kernel noise
refused "nothing for a kernel" 1 "'empty' is not a kernel" --kernel empty
refused "half a kernel" 1 "kernel 'short': .*cut short" --kernel short
refused "a program for a kernel" 1 "has no PVH entry" --kernel "$leanvm" --memory 1G
refused "no initrd" 1 "cannot read the initrd '/none'" --kernel "$kernel" --initrd /none
truncate -s 40M large
refused "too large an initrd" 1 "too little memory: the initrd 'large'" --kernel "$kernel" --initrd large --memory 32M
refused "too little memory" 1 "of memory are asked for" --kernel "$kernel" --memory 1M
refused "no size" 1 "size" --kernel "$kernel" --memory much
refused "too many processors" 1 "1000 vCPUs are asked for" --kernel "$kernel" --cpus 1000
refused "no disk" 1 "'?/none'?" --kernel "$kernel" --disk /none,raw
refused "no layer" 1 "say raw if it is a raw disk" --kernel "$kernel" --disk raw.img
refused "a layer as raw" 1 "is a layer of a chain" --kernel "$kernel" --disk chain.layer,raw
refused "no server" 1 "nbd" --kernel "$kernel" --disk "nbd+unix:///?socket=$work/none"
refused "too many queues" 1 "65 queues are asked for" --kernel "$kernel" --disk raw.img,raw,queues=65
refused "no queues" 1 "is not a number of queues" --kernel "$kernel" --disk raw.img,raw,queues=x
refused "no name" 2 "is no name for a machine" --kernel "$kernel" --name ../x
refused "no kernel named" 2 "--kernel" --memory 32M
refused "no such configuration" 2 "cannot read the configuration 'none.json': No such file" --config none.json
echo '{"kernel": "x", "disks": []}' >wrong.json
refused "an unknown key" 2 '"disks" is no key' --config wrong.json
echo '{"memory": "32M"}' >wrong.json
refused "no kernel in a file" 2 "--kernel is needed" --config wrong.json
refused "a directory as configuration" 2 "cannot read the configuration" --config .
refused "an unknown option" 2 "--nothing" --kernel "$kernel" --nothing
if unshare --mount true 2>/dev/null; then
  status=0
  unshare --mount bash -c "mount --bind /dev/null /dev/kvm; exec '$leanvm' run --kernel '$kernel'" \
    >out 2>err || status=$?
  [[ $status -eq 1 ]] && grep -q '/dev/kvm is not KVM' err || fail "no KVM: exit status $status: $(cat err)"
  say "no KVM: $(cat err)"
fi
unmount_pool
check_clean
finish
