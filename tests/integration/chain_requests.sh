#!/bin/bash
# Every kind of NBD request on a chain, by libnbd: offsets and lengths of any grain, trim,
# zero with and without its flags, FUA, cache, block status, and what is refused. The
# judges are a copy that the client keeps, libnbd's own rules, and nbdinfo.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"

begin
need nbdkit nbdsh nbdinfo jq
export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$build/blockdev/tools/cowchain
top=$work/disk.layer base=$work/base.img uri="nbd+unix:///?socket=$work/socket"
shell() { nbdsh -u "$uri" -c "$1" || fail "$2"; }

# A base, a sealed layer and an active one, so that what is cleared must mask something.
head -c 3000000 /dev/urandom >"$base"
truncate -s 4M "$base"
"$cowchain" create "$top" --base "$base" --size $((8388608 + 1536))
serve_nbd "$uri" "$plugin" "$top"
shell 'h.pwrite(b"\x55" * (1 << 20), 2 << 20); h.flush()' "first writes"
"$cowchain" checkpoint "$top" first

say "what the export says of itself"
nbdinfo --json "$uri" | jq -e '.exports[0] | ."export-size" == 8390144 and .can_cache and .can_fua
  and .can_flush and .can_trim and .can_zero and .can_fast_zero and .can_multi_conn and (.is_read_only | not)
  and .block_size_minimum == 1 and .block_size_preferred == 4096' >/dev/null ||
  fail "$(nbdinfo --json "$uri")"

cat >"$work/mirror.py" <<'END'
# What the disk must hold, and requests that change both.
import itertools, random
size = h.get_size()
mirror = bytearray(h.pread(1 << 20, 0))
for at in range(1 << 20, size, 1 << 20):
    mirror += h.pread(min(1 << 20, size - at), at)
def write(data, offset, flags=0):
    h.pwrite(data, offset, flags)
    mirror[offset:offset + len(data)] = data
def clear(call, length, offset, flags=0):
    call(length, offset, flags)
    mirror[offset:offset + length] = bytes(length)
def check(what, length=None, offset=0):
    length = size - offset if length is None else length
    for at in range(offset, offset + length, 1 << 22):
        part = min(1 << 22, offset + length - at)
        assert h.pread(part, at) == mirror[at:at + part], (what, at)
def fails(error, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as raised:
        assert raised.errno == error, (call, arguments, raised.errno)
        return
    raise AssertionError((call, arguments, "succeeded"))
random.seed(5)
END
mirrored() { shell "exec(open('$work/mirror.py').read())
$2" "$1"; }

say "unaligned: every edge of a block, over base, layer and nothing"
mirrored unaligned '
for begin in (0, 2 << 20, (4 << 20) - 8192, size - 20000):
    for edge, length in itertools.product((0, 1, 511, 512, 4095), (1, 2, 511, 512, 4095, 4096, 4097, 9000)):
        offset = begin + edge + 4096 * random.randrange(2)
        for request in (lambda: write(random.randbytes(length), offset),
                        lambda: clear(h.trim, length, offset),
                        lambda: write(random.randbytes(length), offset),
                        lambda: clear(h.zero, length, offset)):
            request()
            check((begin, edge, length), min(20000, size - begin), begin)
write(b"end", size - 3)
check("the last bytes")
'

say "zero: with and without NO_HOLE and FAST_ZERO, FUA on everything"
mirrored zero '
flags = (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
for flag, fua in itertools.product(flags, (0, nbd.CMD_FLAG_FUA)):
    for length in (512, 4096, 70000, 1 << 20):
        offset = random.randrange(size - length)
        write(random.randbytes(length), offset, fua)
        clear(h.zero, length, offset, flag | fua)
        check((flag, fua, length), length, offset)
        write(b"z" * length, offset, fua)
        clear(h.trim, length, offset, fua)
        check(("trim", fua, length), length, offset)
check("all of it")
'

say "cache reads, and changes nothing"
mirrored cache '
for length in (1, 4096, 1 << 20):
    h.cache(length, random.randrange(size - length))
check("after cache")
'

say "what is out of bounds is refused, and the connection lives"
mirrored refusals '
h.set_strict_mode(h.get_strict_mode() & ~(nbd.STRICT_BOUNDS | nbd.STRICT_COMMANDS | nbd.STRICT_ZERO_SIZE))
fails("EINVAL", h.pread, 4096, size - 4095)
fails("ENOSPC", h.pwrite, b"x" * 4096, size - 4095)
fails("ENOSPC", h.zero, 4096, size)
fails("EINVAL", h.trim, 4096, size - 1)
fails("EINVAL", h.cache, 4096, size)
check("after what was refused")
'

say "FUA is stable: kill -9 after it"
for call in "h.pwrite(b'\\x77' * 8192, 123 * 4096, nbd.CMD_FLAG_FUA)" \
  "h.trim(8192, 123 * 4096, nbd.CMD_FLAG_FUA)" \
  "h.pwrite(b'\\x77' * 8192, 123 * 4096, nbd.CMD_FLAG_FUA)" \
  "h.zero(8192, 123 * 4096, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)"; do
  shell "$call" "$call"
  stop_nbd "$server"
  serve_nbd "$uri" "$plugin" "$top"
  wanted=0
  [[ $call != *pwrite* ]] || wanted=119
  shell "assert h.pread(8192, 123 * 4096) == bytes([$wanted]) * 8192" "lost after kill -9: $call"
done

say "block status: data where something else than zeros was written, holes elsewhere"
shell 'h.trim(h.get_size() - 512, 512); h.trim(512, 0)
for at in (1 << 20, (2 << 20) + 5, 6 << 20):
    h.pwrite(b"d" * 100000, at)
h.pwrite(bytes(1 << 20), 7 << 20)
h.pwrite(b"d" * 4096, 7 << 20)
h.zero(4096, 1 << 20)
h.zero(4096, (6 << 20) + 4096, nbd.CMD_FLAG_NO_HOLE)' "the writes"
nbdinfo --map --json "$uri" >"$work/map.json"
nbdinfo --map --totals --json "$uri" >"$work/totals.json"
python3 - "$work/map.json" "$work/totals.json" <<'END' || fail "$(cat "$work/map.json")"
import json, sys
ranges, totals = (json.load(open(path)) for path in sys.argv[1:])
size, block, mib = 8388608 + 1536, 4096, 1 << 20
data = set()
for at in (mib, 2 * mib + 5, 6 * mib):
    data |= set(range(at // block, (at + 100000 - 1) // block + 1))
data.add(7 * mib // block)
data -= {mib // block, (6 * mib + 4096) // block}
at = 0
for r in ranges:
    assert r["offset"] == at and r["type"] in (0, 3), r
    at += r["length"]
    for b in range(r["offset"] // block, (r["offset"] + r["length"] + block - 1) // block):
        assert (b in data) == (r["type"] == 0), (r, b)
assert at == size, at
assert sum(t["size"] for t in totals) == size, totals
assert next(t["size"] for t in totals if t["type"] == 0) == len(data) * block, totals
END
shell 'h.trim(h.get_size() - 512, 512); h.trim(512, 0)' "the trim"
nbdinfo --map --json "$uri" | jq -e 'length == 1 and .[0].type == 3' >/dev/null ||
  fail "a disk that was trimmed as a whole is no hole"

say "a sealed layer: read-only, what it held"
stop_nbd "$server"
serve_nbd "$uri" "$plugin" "$top.first"
nbdinfo --json "$uri" | jq -e '.exports[0].is_read_only' >/dev/null || fail "a sealed layer can be written"
shell 'h.set_strict_mode(0)
for call in (lambda: h.pwrite(b"x", 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
    try:
        call()
        raise SystemExit("a sealed layer was changed")
    except nbd.Error as error:
        assert error.errno == "EPERM", error
assert h.pread(1 << 20, 2 << 20) == b"\x55" * (1 << 20)' "a sealed layer"
stop_nbd "$server"
"$cowchain" verify "$top" >"$work/verify" || fail "$(cat "$work/verify")"
finish
