#!/bin/bash
# A chain under nbdkit's filters, and over TLS. Each filter stands once above the chain and
# once above a flat file in nbdkit's own plugin; the same requests go to both. What a
# client sees through the filter, and what lies below it afterwards, must be the same.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"

begin
need nbdkit nbdsh nbdcopy nbdinfo qemu-img cmp openssl python3
need_space 512
export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$build/blockdev/tools/cowchain
top=$work/disk.layer flat=$work/flat.img socket=$work/socket
uri="nbd+unix:///?socket=$socket" size=$((16 << 20))

cat >"$work/changes.py" <<'END'
import os, random
random.seed(int(os.environ["CHANGES"]))
size, grain = h.get_size(), int(os.environ.get("GRAIN", "1"))
for step in range(60):
    length = random.choice([512, 4096, 5000, 65536, 150000])
    length = max(grain, length - length % grain)
    offset = random.randrange(size - length)
    offset -= offset % (grain if random.random() < 0.5 else max(grain, 4096))
    kind = random.randrange(8)
    if kind == 0 and h.can_trim():
        h.trim(length, offset)
        if h.can_zero():  # a trim may leave anything
            h.zero(length, offset)
        else:
            h.pwrite(bytes(length), offset)
    elif kind == 1 and h.can_zero():
        h.zero(length, offset)
    elif kind == 2:
        h.pread(length, offset)
    else:
        h.pwrite(random.randbytes(length), offset)
if h.can_flush():
    h.flush()
END
# through WHERE SEED PARAMETER...: changes, then what the client sees into $work/seen.WHERE.
through() {
  local where=$1 seed=$2 run
  shift 2
  export CHANGES=$seed
  run="nbdsh -u \"\$uri\" -c - <'$work/changes.py' && nbdcopy \"\$uri\" '$work/seen.$where'"
  rm -f "$work/seen.$where"
  nbdkit -f -U - "$@" --run "$run" 2>"$work/filter.log" || fail "$*: $(tail -n 5 "$work/filter.log")"
}
as_flat() {
  nbdkit -f -U - "$plugin" "$top" --run "qemu-img compare -q -f raw -F raw \"\$uri\" '$flat'"
}
seed=100
# same_under "FILTER..." [PARAMETER...]: the filters' parameters follow the plugin's.
same_under() {
  local filters=$1 entry options=()
  shift
  say "  $filters $*"
  for entry in $filters; do options+=("--filter=$entry"); done
  seed=$((seed + 1))
  through chain "$seed" "${options[@]}" "$plugin" "$top" "$@"
  through flat "$seed" "${options[@]}" file "$flat" "$@"
  cmp "$work/seen.chain" "$work/seen.flat" || fail "$filters: a client sees something else"
  as_flat || fail "$filters: the chain does not hold what the flat file holds"
}

# A partition table, so that one filter finds what it wants.
python3 - "$flat" "$size" <<'END'
import random, struct, sys
path, size = sys.argv[1], int(sys.argv[2])
data = bytearray(random.Random(1).randbytes(size // 2)) + bytearray(size - size // 2)
def entry(first, count):
    return struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), first, count)
data[446:510] = entry(2048, 8192) + entry(12288, 16384) + bytes(32)
data[510:512] = b"\x55\xaa"
open(path, "wb").write(data)
END
"$cowchain" create "$top" --size "$size"
nbdkit -f -U - "$plugin" "$top" --run "nbdcopy '$flat' \"\$uri\""
"$cowchain" checkpoint "$top" filled  # so that there is something to mask
as_flat || fail "before all filters"

say "filters that show a partition"
same_under partition partition=1
same_under "offset partition" partition=2 offset=64K

say "filters that show the disk as it is"
same_under log logfile="$work/log"
grep -q 'Write id=' "$work/log" || fail "the log has no write"
same_under stats statsfile="$work/stats"
grep -q '^write: ' "$work/stats" || fail "no figures: $(cat "$work/stats")"
same_under blocksize minblock=4096 maxdata=65536
GRAIN=512 same_under blocksize-policy blocksize-minimum=512 blocksize-preferred=4096 \
  blocksize-maximum=1M blocksize-error-policy=error
same_under cache cache=writethrough
same_under cache cache=writeback
same_under cacheextents
same_under readahead
same_under retry retries=2
same_under retry-request retry-request-retries=2
same_under fua  # none
same_under fua fuamode=emulate
same_under fua fuamode=native
same_under fua fuamode=force
same_under fua fuamode=pass
same_under multi-conn multi-conn-mode=disable
same_under multi-conn multi-conn-mode=emulate
same_under nocache
same_under noextents
same_under noparallel serialize=all-requests
same_under nozero zeromode=none
same_under nozero zeromode=emulate
same_under nozero zeromode=notrim
same_under nofilter
same_under delay rdelay=1ms wdelay=1ms
same_under rate rate=2G
same_under limit limit=4
same_under exportname default-export=disk
same_under pause pause-control="$work/pause"
same_under ip allow=all
same_under "log readahead cacheextents stats" logfile="$work/log" statsfile="$work/stats"

say "filters that show a part of it, or change it"
same_under offset offset=1M range=8M
same_under truncate round-up=1M
same_under truncate truncate=8M
GRAIN=4096 same_under swab swab-bits=16
same_under protect protect=0-0x100  # nothing is written there
cp "$flat" "$work/before"
same_under cow
cmp "$work/before" "$flat" || fail "the cow filter wrote below itself"
same_under "cow cache" cow-block-size=64K

say "a failure on its way: the client is told, retry goes on"
! nbdkit -f -U - --filter=error "$plugin" "$top" error-pread=EIO error-pread-rate=100% \
  --run "nbdsh -u \"\$uri\" -c 'h.pread(512, 0)'" >"$work/error.log" 2>&1 || fail "a read that fails succeeds"
same_under "retry-request error" error-pwrite=EIO error-pwrite-rate=20% retry-request-retries=20 retry-request-delay=1

say "--run, and no filter"
wanted=$(stat -c %s "$flat")
nbdkit -f -U - "$plugin" "$top" --run 'nbdinfo --size "$uri"' >"$work/size" || fail "--run"
[[ $(cat "$work/size") -eq $wanted ]] || fail "--run says $(cat "$work/size")"
status=0
nbdkit -U - "$plugin" "$top" --run 'exit 7' || status=$?
[[ $status -eq 7 ]] || fail "--run ends with $status, not with its command's status"
status=0
nbdkit -U - "$plugin" "$work/none.layer" --run 'exit 0' 2>"$work/error.log" || status=$?
[[ $status -ne 0 ]] && grep -q "none.layer" "$work/error.log" || fail "a chain that is not there: $(cat "$work/error.log")"

say "TLS"
[[ $(nbdkit --dump-config) == *tls=yes* ]] || { finish "passed, but for TLS, which this nbdkit has not"; exit; }
keys=$work/keys
mkdir "$keys"
certificate() {  # certificate NAME SUBJECT OPTION...
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$2" \
    -keyout "$keys/$1-key.pem" -out "$keys/$1-cert.pem" "${@:3}" 2>>"$work/openssl.log" || fail "$(cat "$work/openssl.log")"
}
signed=(-CA "$keys/ca-cert.pem" -CAkey "$keys/ca-key.pem" -addext basicConstraints=critical,CA:FALSE)
certificate ca "a tide"
certificate server localhost "${signed[@]}" -addext subjectAltName=DNS:localhost,IP:127.0.0.1
certificate client client "${signed[@]}"
echo "tide:$(openssl rand -hex 32)" >"$work/psk"
over_tls() {  # over_tls URI OPTION...: copies both ways, and what --tls=require refuses
  local tls=$1 plain=$2
  shift 2
  nbdkit -f "$@" --tls=require "$plugin" "$top" 2>>"$work/tls.log" &
  server=$!
  children+=("$server")
  wait_until 10 nbd_answers "$tls" || fail "$tls: $(tail -n 3 "$work/tls.log") $(nbdinfo "$tls" 2>&1)"
  [[ $(nbdinfo --size "$tls") -eq $wanted ]] || fail "$tls: its size"
  nbdinfo --json "$tls" | grep -q '"TLS": true' || fail "$tls: $(nbdinfo --json "$tls")"
  head -c "$size" /dev/urandom >"$flat"
  nbdcopy --flush "$flat" "$tls" || fail "$tls: nbdcopy in"
  rm -f "$work/back"
  nbdcopy "$tls" "$work/back" || fail "$tls: nbdcopy out"
  cmp "$flat" "$work/back" || fail "$tls: another content comes back"
  ! nbdinfo --size "$plain" >"$work/error.log" 2>&1 || fail "$plain is served without TLS"
  stop_nbd "$server"
  as_flat || fail "$tls: the chain does not hold what was copied"
}
say "  certificates"
port=$((20000 + RANDOM % 20000))
over_tls "nbds://localhost:$port/?tls-certificates=$keys" "nbd://localhost:$port/" \
  -i localhost -p "$port" --tls-certificates="$keys" --tls-verify-peer
say "  a pre-shared key"
over_tls "nbds+unix://tide@/?socket=$socket&tls-psk-file=$work/psk" "$uri" -U "$socket" --tls-psk="$work/psk"
"$cowchain" verify "$top" >"$work/verify" || fail "$(cat "$work/verify")"
finish
