#!/bin/bash
# A Linux guest in leanvm that is saved and restored while it works: fio writes and
# verifies, a TCP connection is kept busy, each processor counts. The judges: what was
# counted (guest_counter), fio, each byte that comes back through the connection, e2fsck.
#
# ROUNDS: how often (3).
source "$(dirname "$0")/linux_guest.sh"
rounds=${ROUNDS:-3}
cpus=2
guest_seconds=$((1800 + rounds * 60))
begin_guests
need python3 ip
choose_seed
took() { say "$SECONDS s: $1"; }
make_initrd

cat >work_on <<END
export PATH=/bin
ip link set lo up; ip addr add 10.55.0.2/24 dev eth0; ip link set eth0 up
nc 10.55.0.1 7007 -e cat &
guest_counter run $cpus &
counter=\$!
fio --name=v --filename=/work --size=4m --bsrange=4k-32k --rw=randwrite --ioengine=libaio \\
  --iodepth=4 --direct=1 --verify=xxhash --verify_fatal=1 --loops=1000000 --thread --disk_util=0 >/log 2>&1 &
fio=\$!
until [ -s /work ]; do usleep 200000; done
echo "guest: loaded"
while read word; do [ "\$word" = end ] && break; done
kill -INT \$fio; wait \$fio; echo "guest: fio ended with \$?"
kill \$counter
grep -E 'err=|verify:|READ:|WRITE:' /log | sed 's/^/guest: fio /'
sync && mount -o remount,ro / && echo "guest: done"
poweroff -f
END
# echo.py SEED: sends by one connection and compares what comes back, until "stop" is there.
cat >echo.py <<'END'
import collections, os, random, socket, sys, time
chance = random.Random(int(sys.argv[1]))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('10.55.0.1', 7007))
listener.listen(1)
connection = listener.accept()[0]
connection.setblocking(False)
waiting, out, total, told, most = bytearray(), b'', 0, 0.0, 1 << 17
last = time.monotonic()
while True:
    stop = os.path.exists('stop')
    if stop and not waiting:
        break
    if not out and not stop and len(waiting) < most:
        out = chance.randbytes(4096)
        waiting += out
    try:
        if out:
            out = out[connection.send(out):]
    except BlockingIOError:
        pass
    try:
        data = connection.recv(1 << 16)
        if not data:
            sys.exit('the guest closed the connection')
        if data != waiting[:len(data)]:
            sys.exit(f'other bytes came back behind {total}')
        del waiting[:len(data)]
        total += len(data)
        last = time.monotonic()
    except BlockingIOError:
        time.sleep(0.01)
    if time.monotonic() - last > 300:
        sys.exit(f'nothing came back for 300 s behind {total} bytes')
    if time.monotonic() - told > 0.5:
        told = time.monotonic()
        with open('echoed.new', 'w') as f:
            f.write(str(total))
        os.rename('echoed.new', 'echoed')
print(total)
END

took "a root file system"
make_root root.img work_on
ip tuntap add dev tap0 mode tap vnet_hdr
ip addr add 10.55.0.1/24 dev tap0
ip link set tap0 up
echo 0 >echoed
python3 echo.py "$seed" >echo.log 2>&1 &
echo_judge=$!
children+=("$echo_judge")

counted() { grep -ac "^count $1 " console || true; }
goes_on() {  # goes_on COUNT-0 COUNT-1 ECHOED: each of them is more by now, or something ended
  ! kill -0 "$guest" 2>/dev/null || ! kill -0 "$echo_judge" 2>/dev/null ||
    [[ $(counted 0) -gt $1 && $(counted 1) -gt $2 && $(cat echoed) -gt $3 ]]
}
wait_for_work() {
  local before=("$(counted 0)" "$(counted 1)" "$(cat echoed)")
  wait_until 900 goes_on "${before[@]}" || fail "the guest stands still: counted ${before[*]}, now $(counted 0) $(counted 1) $(cat echoed): $(shown console)"
  kill -0 "$guest" 2>/dev/null || fail "the guest ended: $(shown console)"
  kill -0 "$echo_judge" 2>/dev/null || fail "the connection: $(cat echo.log); the guest: $(shown console)"
}
# By how many milliseconds the guest's clock is behind, and printing late.
lag() {
  echo $(($(date +%s%3N) - $(tr -d '\r' <console | grep -aE '^count [0-9]+ [0-9]+ [0-9]+ [0-9]+ [0-9]{13}$' |
    tail -n 1 | cut -d' ' -f6)))
}
knows_the_time() { [[ $(($(lag) - behind)) -lt 5000 && $((behind - $(lag))) -lt 5000 ]]; }

took "a guest at work"
run_guest console "$elf" "$cpus" work_on --disk root.img,raw,queues=$cpus --net tap=tap0
wait_for_guest console loaded
wait_for_work
for ((round = 1; round <= rounds; ++round)); do
  sleep "0.$((RANDOM % 10))"
  behind=$(lag)
  "$leanvm" save console state || fail "cannot be saved: $(shown console)"
  end_guest console
  [[ $round -ne 1 ]] || sleep 10  # a clock that stood still stays behind
  start_guest console restore state
  wait_for_work
  wait_until 120 knows_the_time || fail "its clock was behind by $behind ms and is by $(lag) ms"
  took "round $round, a state of $(($(stat -c %s state) >> 20)) MiB, its clock behind by $(lag) ms"
done
touch stop
wait "$echo_judge" || fail "the connection: $(cat echo.log); the guest: $(shown console)"
say "echoed through one connection: $(cat echo.log) bytes"
type_line end
wait_for_guest console done
end_guest console
tr -d '\r' <console >printed
"$build/tests/lab/guest_counter" check "$cpus" <printed || fail "counted: $(grep -a '^count ' printed | tail -n 5)"
# The twins: the judge sees a value that is another step's, and a line that comes twice.
awk '/^count 0/ && ++n == 2 { $3 = $3 + 1 } { print }' printed >wrong
awk '{ print } /^count 0/ && ++n == 2' printed >twice
for file in wrong twice; do
  ! "$build/tests/lab/guest_counter" check "$cpus" <"$file" >/dev/null || fail "the judge passes what is $file"
done
grep -a '^guest: fio' printed
grep -aqE '^guest: fio v: .*err= 0:' printed && ! grep -aq 'verify:' printed || fail "fio: $(shown console)"
e2fsck -fn root.img >fsck.log 2>&1 || fail "e2fsck: $(cat fsck.log)"
ip link del tap0
finish "passed in $SECONDS s: $rounds rounds"
