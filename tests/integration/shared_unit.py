"""Judges one SCSI unit that several hosts serve.

Usage: shared_unit.py matrix|attentions|counters N HOST HOST
       shared_unit.py hold|preempt|keep|kept HOST
A HOST is a command line, in one argument, of iscsi_cdb that reaches the unit by way of that host.

  matrix      each command and each service action of PERSISTENT RESERVE OUT against each of
              the six types of reservation, held by way of the first host, from the second one
  attentions  what the other host's initiator is told of RELEASE, CLEAR, PREEMPT and a reset
  counters N  both count with COMPARE AND WRITE in one block, N times each, while both write
              beside it; the sum must be there
  hold        reserves, write exclusive, and writes block 0; prints "holding"; after a line on stdin
              writes it again, and prints what came of that
  keep, kept  registers so that it persists through power loss; whether it is still so, and the
              unit reserved
  preempt     sees that reservation, preempts it, and writes block 0

Exit status: 0 as it should be, 1 not (what is not is on stdout).
"""

import shlex
import struct
import subprocess
import sys
import threading

TYPES = (1, 3, 5, 6, 7, 8)
ALL_REGISTRANTS = (7, 8)
KEY_A, KEY_B = 0xA1, 0xB2

# Written from SPC-4 5.13.1 and SBC-3 4.17. A: allowed, C: conflict. In order: write exclusive held by
# another, exclusive access held by another (both from any nexus), registrants only and all
# registrants from one that is registered, write exclusive and exclusive access of registrants from
# one that is not. Then data: "in N" or "out N*00".
ROWS = [row.split("|") for row in """
TEST UNIT READY|AAAAA|00|
REQUEST SENSE|AAAAA|030000001200|in 18
INQUIRY|AAAAA|120000006000|in 96
MODE SELECT(6)|CCACC|151000000400|out 4*00
MODE SELECT(10)|CCACC|55100000000000000800|out 8*00
MODE SENSE(6)|CCACC|1a003f00ff00|in 255
MODE SENSE(10)|CCACC|5a003f0000000000ff00|in 255
START STOP UNIT, start|AAAAA|1b0000000100|
START STOP UNIT, stop|CCACC|1b0000000000|
START STOP UNIT, a power condition|CCACC|1b0000001100|
PREVENT ALLOW, allow|AAAAA|1e0000000000|
PREVENT ALLOW, prevent|CCACC|1e0000000100|
READ CAPACITY(10)|AAAAA|25000000000000000000|in 8
READ CAPACITY(16)|AAAAA|9e100000000000000000000000200000|in 32
GET LBA STATUS|ACAAC|9e120000000000000000000000200000|in 32
REPORT LUNS|AAAAA|a00000000000000000400000|in 64
REPORT SUPPORTED OPERATION CODES|ACAAC|a30c00000000000001000000|in 256
REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS|ACAAC|a30d00000000000000100000|in 16
READ(6)|ACAAC|080000000100|in 512
READ(10)|ACAAC|28000000000000000100|in 512
READ(12)|ACAAC|a80000000000000000010000|in 512
READ(16)|ACAAC|88000000000000000000000000010000|in 512
VERIFY(10)|ACAAC|2f000000000000000100|
VERIFY(12)|ACAAC|af0000000000000000010000|
VERIFY(16)|ACAAC|8f000000000000000000000000010000|
PRE-FETCH(10)|ACAAC|34000000000000000100|
PRE-FETCH(16)|ACAAC|90000000000000000000000000010000|
READ DEFECT DATA(10)|ACAAC|37000800000000000800|in 8
READ DEFECT DATA(12)|ACAAC|b70800000000000000080000|in 8
WRITE(6)|CCACC|0a0000000100|out 512*00
WRITE(10)|CCACC|2a000000000000000100|out 512*00
WRITE(12)|CCACC|aa0000000000000000010000|out 512*00
WRITE(16)|CCACC|8a000000000000000000000000010000|out 512*00
WRITE AND VERIFY(10)|CCACC|2e000000000000000100|out 512*00
WRITE AND VERIFY(12)|CCACC|ae0000000000000000010000|out 512*00
WRITE AND VERIFY(16)|CCACC|8e000000000000000000000000010000|out 512*00
COMPARE AND WRITE|CCACC|89000000000000000000000000010000|out 1024*00
ORWRITE(16)|CCACC|8b000000000000000000000000010000|out 512*00
WRITE SAME(10)|CCACC|41000000000000000100|out 512*00
WRITE SAME(16)|CCACC|93000000000000000000000000010000|out 512*00
UNMAP|CCACC|42000000000000000000|
SYNCHRONIZE CACHE(10)|CCACC|35000000000000000000|
SYNCHRONIZE CACHE(16)|CCACC|91000000000000000000000000000000|
EXTENDED COPY|CCACC|83000000000000000000000000000000|
PERSISTENT RESERVE IN, READ KEYS|AAAAA|5e000000000000004000|in 64
PERSISTENT RESERVE IN, READ RESERVATION|AAAAA|5e010000000000004000|in 64
PERSISTENT RESERVE IN, REPORT CAPABILITIES|AAAAA|5e020000000000004000|in 64
PERSISTENT RESERVE IN, READ FULL STATUS|AAAAA|5e03000000000001ff00|in 511
""".strip().splitlines()]

# What a unit of several hosts does not have: whatever is reserved, it says so.
MISSING = ["160000000000", "170000000000", "56000000000000000000", "57000000000000000000",
           "48020000000000000000"]

UNMAP = "42000000000000000000"

# Action, from one that is registered and holds nothing, from one that is not registered.
ACTIONS = [("REGISTER", 0, "A", "A"), ("RESERVE", 1, "C", "C"), ("RELEASE", 2, "A", "C"),
           ("CLEAR", 3, "A", "C"), ("PREEMPT", 4, "A", "C"), ("PREEMPT AND ABORT", 5, "A", "C"),
           ("REGISTER AND IGNORE EXISTING KEY", 6, "A", "A"), ("REGISTER AND MOVE", 7, "C", "C")]

failures = 0


def expect(condition, text):
    global failures
    if not condition:
        failures += 1
        print(f"not so: {text}", flush=True)


class Initiator:
    def __init__(self, command, name):
        self.name = name
        self.process = subprocess.Popen(
            shlex.split(command) + ["--initiator", f"iqn.2026-11.test:{name}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.quiet()

    def begin(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"no answer for {self.name}")
        return line.rstrip("\n")

    def ask(self, command):
        self.begin(command)
        return self.answer()

    def quiet(self):
        """Takes the unit attentions that there are; their codes."""
        codes = []
        while (answer := self.ask("000000000000")).startswith("check 6 "):
            codes.append(answer.split()[2])
        return codes

    def reserve_out(self, action, kind, key, action_key, more=b""):
        data = struct.pack(">QQ", key, action_key) + bytes(4) + (more or bytes(4))
        return self.ask(f"5f{action:02x}{kind:02x}0000{len(data):08x}00 out {data.hex()}")

    def must_reserve_out(self, *arguments):
        answer = self.reserve_out(*arguments)
        if not answer.startswith("good"):
            sys.exit(f"{self.name}: PERSISTENT RESERVE OUT {arguments}: {answer}")

    def keys(self):
        data = bytes.fromhex(self.ask("5e000000000000100000 in 4096").split(" ")[1])
        length = struct.unpack_from(">I", data, 4)[0]
        return sorted(struct.unpack_from(f">{length // 8}Q", data, 8))

    def holds_type(self):
        data = bytes.fromhex(self.ask("5e010000000000004000 in 64").split(" ")[1])
        return data[21] & 0x0F if struct.unpack_from(">I", data, 4)[0] else 0

    def transport_id(self, key):
        """Of the port that registered the key."""
        data = bytes.fromhex(self.ask("5e030000000000100000 in 4096").split(" ")[1])
        at, end = 8, 8 + struct.unpack_from(">I", data, 4)[0]
        while at < end:
            length = struct.unpack_from(">I", data, at + 20)[0]
            if struct.unpack_from(">Q", data, at)[0] == key:
                return data[at + 24:at + 24 + length]
            at += 24 + length
        sys.exit(f"nobody has the key {key:x}")


def clear(a, b):
    a.reserve_out(6, 0, 0, KEY_A)
    a.must_reserve_out(3, 0, KEY_A, 0)
    a.quiet(), b.quiet()


def reserve(a, b, kind, registered):
    clear(a, b)
    a.must_reserve_out(0, 0, 0, KEY_A)
    if registered:
        b.must_reserve_out(0, 0, 0, KEY_B)
    a.must_reserve_out(1, kind, KEY_A, 0)


def column(kind, registered):
    if kind in (1, 3):
        return 0 if kind == 1 else 1
    if registered:
        return 2
    return 3 if kind in (5, 7) else 4


def matrix(a, b):
    cases = 0
    # Whether space can be given back depends on the server.
    thin = not b.ask(UNMAP).startswith("check 5 2000")
    rows = [row for row in ROWS if thin or row[2] != UNMAP]
    missing = MISSING if thin else MISSING + [UNMAP]
    for kind in TYPES:
        for registered in (False, True):
            reserve(a, b, kind, registered)
            who = f"type {kind}{', registered' if registered else ''}"
            for name, columns, cdb, data in rows:
                answer = b.ask(f"{cdb} {data}")
                conflict = columns[column(kind, registered)] == "C"
                expect((answer == "conflict") == conflict and not answer.startswith("check 6"),
                       f"{name}, {who}: {answer}")
                holder = a.ask(f"{cdb} {data}")
                expect(holder != "conflict", f"{name}, the holder, {who}: {holder}")
                cases += 2
            for cdb in missing:
                answer = b.ask(cdb)
                expect(answer == "check 5 2000", f"{cdb}, {who}: {answer}")
                cases += 1
            for _, action, from_registered, from_stranger in ACTIONS:
                cases += 1
                reserve(a, b, kind, registered)
                registering = action in (0, 6)
                key = KEY_B if registered or not registering else 0
                more = b""
                if action == 7:
                    port = a.transport_id(KEY_A)
                    more = struct.pack(">I", len(port)) + port
                answer = b.reserve_out(action, kind, key, KEY_B + 1 if registering else KEY_A, more)
                expected = from_registered if registered else from_stranger
                if action == 1 and kind in ALL_REGISTRANTS and registered:
                    expected = "A"
                expect((answer == "conflict") == (expected == "C"),
                       f"service action {action}, {who}: {answer}")
                a.quiet(), b.quiet()
                expect(a.keys() == b.keys(), f"the hosts' keys after {action}, {who}")
    clear(a, b)
    return cases


def attentions(a, b):
    write = "2a000000000000000100 out 512*00"
    for kind in TYPES:
        reserve(a, b, kind, True)
        a.must_reserve_out(2, kind, KEY_A, 0)
        expect(b.quiet() == (["2a04"] if kind >= 5 else []), f"RELEASE of type {kind}")
        reserve(a, b, kind, True)
        a.must_reserve_out(3, kind, KEY_A, 0)
        expect(b.quiet() == ["2a03"], f"CLEAR of type {kind}")
        expect(b.ask(write).startswith("good"), f"a write after CLEAR of type {kind}")
        reserve(a, b, kind, True)
        b.must_reserve_out(4, 1, KEY_B, 0 if kind in ALL_REGISTRANTS else KEY_A)
        expect(a.quiet()[:1] == ["2a05"], f"PREEMPT of type {kind}")
        expect(a.ask(write) == "conflict", f"a write after PREEMPT of type {kind}")
        expect(b.ask(write).startswith("good"), f"the preempter's write, type {kind}")
        expect(a.keys() == [KEY_B] and a.holds_type() == 1, f"who is left after PREEMPT of {kind}")
    clear(a, b)


def count(initiator, times, beside, result):
    """Adds `times` to the number in block 0, and writes block `beside` between."""
    done = 0
    while done < times:
        answer = initiator.ask("28000000000000000100 in 512")
        now = bytes.fromhex(answer.split(" ")[1])
        value = struct.unpack_from(">Q", now)[0]
        then = struct.pack(">Q", value + 1) + now[8:]
        answer = initiator.ask(f"89000000000000000000000000010000 out {(now + then).hex()}")
        if answer.startswith("good"):
            done += 1
        elif not answer.startswith("check e 1d00"):
            result.append(f"COMPARE AND WRITE: {answer}")
            return
        answer = initiator.ask(f"2a00{beside:08x}00000100 out 512*5a")
        if not answer.startswith("good"):
            result.append(f"WRITE: {answer}")
            return


def counters(a, b, times):
    if not a.ask("2a000000000000000100 out 512*00").startswith("good"):
        sys.exit("no write")
    result = []
    threads = [threading.Thread(target=count, args=(who, times, 8 * (1 + i), result))
               for i, who in enumerate((a, b))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in result:
        expect(False, text)
    data = bytes.fromhex(b.ask("28000000000000000100 in 512").split(" ")[1])
    value = struct.unpack_from(">Q", data)[0]
    expect(value == 2 * times, f"{value} increments are there, {2 * times} were answered")


def write_of(byte):
    return f"2a000000000000000100 out 512*{byte}"


def hold(a):
    a.must_reserve_out(6, 0, 0, KEY_A)
    a.must_reserve_out(1, 1, KEY_A, 0)
    if not a.ask(write_of("11")).startswith("good"):
        sys.exit("the holder cannot write")
    print("holding", flush=True)
    sys.stdin.readline()
    print(a.ask(write_of("22")), flush=True)


def keep(a):
    clear(a, a)
    data = struct.pack(">QQ", 0, KEY_A) + bytes(4) + b"\1" + bytes(3)  # APTPL
    expect(a.ask(f"5f000000000000001800 out {data.hex()}").startswith("good"), "APTPL is taken")
    a.must_reserve_out(1, 1, KEY_A, 0)


def kept(a):
    expect(a.keys() == [KEY_A] and a.holds_type() == 1, f"{a.keys()}, type {a.holds_type()}")


def preempt(b):
    expect(b.ask(write_of("33")) == "conflict", "the reservation is seen")
    b.must_reserve_out(6, 0, 0, KEY_B)
    b.must_reserve_out(4, 1, KEY_B, KEY_A)
    expect(b.ask(write_of("33")).startswith("good"), "the new holder writes")
    expect(b.keys() == [KEY_B], "nobody else is registered")


def main():
    what, *rest = sys.argv[1:]
    if what == "hold":
        hold(Initiator(rest[0], "a"))
    elif what == "preempt":
        preempt(Initiator(rest[0], "b"))
    elif what in ("keep", "kept"):
        (keep if what == "keep" else kept)(Initiator(rest[0], "a"))
    else:
        a, b = Initiator(rest[-2], "a"), Initiator(rest[-1], "b")
        if what == "matrix":
            print(f"{matrix(a, b)} cases", flush=True)
        elif what == "attentions":
            attentions(a, b)
        else:
            counters(a, b, int(rest[0]))
    if failures:
        sys.exit(f"{failures} are not as they should be")


main()
