#!/bin/bash
# nas-scsi and foreign initiators (libiscsi, QEMU's iscsi:// driver): secrets, digests, several
# units, what is kept through kill -9, what two initiators are told.
# Each protection is taken away once, to see that the check then goes red.
set -euo pipefail
build=${TIDEPOOL_BUILD:?names the build directory}
program=$build/scsi/tools/nas-scsi
client=$build/tests/integration/iscsi_cdb

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
skip() {
  printf 'skipped: %s\n' "$*"
  exit 77
}
for command in iscsi-ls qemu-img qemu-io; do
  command -v "$command" >/dev/null || skip "$command is not installed"
done
work=$(mktemp -d)
server='' url='' ended=''
end_server() {  # end_server [SIGNAL]
  [[ -n $server ]] || return 0
  local status=0
  kill -"${1:-TERM}" "$server"
  wait "$server" 2>/dev/null || status=$?
  server=''
  [[ ${1:-TERM} != TERM || $status -eq 0 ]] || fail "nas-scsi ended with $status: $(cat "$work/log")"
}
clean_up() {
  local status=$?
  trap - EXIT
  [[ -z $server ]] || kill -9 "$server" 2>/dev/null || true
  [[ $status -ne 0 || -n $ended ]] || status=1
  [[ $status -eq 0 ]] || tail -n 20 "$work/log" >&2 || true
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
cd "$work"

serve() {  # serve [OPTION...] DISK...: sets $url, of unit 0, and $server
  : >urls
  "$program" --portal 127.0.0.1:0 --target iqn.2026-11.test:target "$@" >urls 2>>log &
  server=$!
  local i
  for ((i = 0; i < 300; i++)); do
    [[ -s urls ]] && break
    kill -0 "$server" 2>/dev/null || fail "nas-scsi: $(tail -1 log)"
    sleep 0.1
  done
  url=$(head -1 urls)
}
with_user() { echo "iscsi://$1@${url#iscsi://}"; }  # with_user NAME%SECRET
# ask [OPTION...] LINE...: the answers to the commands, of one session.
ask() {
  local options=()
  while [[ $1 == --* ]]; do
    options+=("$1" "$2")
    shift 2
  done
  printf '%s\n' "$@" | "$client" "$url" "${options[@]}"
}
# refused WORD COMMAND...: it fails, and its message has the word.
refused() {
  local word=$1
  shift
  if "$@" >refusal 2>&1; then return 1; fi
  grep -qi -- "$word" refusal || fail "'$*' says: $(cat refusal)"
}
ready=000000000000

echo "CHAP: who knows the secret is let in, nobody else"
truncate -s 16M disk.img
secret=a-secret-nobody-knows target_secret=the-targets-own-secret
(umask 077; printf 'initiator alice %s\ntarget disk %s\n' "$secret" "$target_secret" >chap)
: >log
TIDEPOOL_LOG=trace serve --chap-file chap disk.img
plain=$url
login() { url=$1 ask "$ready" >answer 2>&1; }
login "$(with_user "alice%$secret")" || fail "the right secret: $(cat answer)"
# Its right answer shows that a unit's first word, power on, comes through.
grep -q 'check 6 2900' answer || fail "the right secret: $(cat answer)"
! login "$(with_user "alice%a-secret-everybody-knows")" || fail "a wrong secret was let in"
! login "$(with_user "bob%$secret")" || fail "a wrong name was let in"
! login "$plain" || fail "no secret at all was let in"
mutual="$(with_user "alice%$secret")?target_user=disk&target_password=$target_secret"
login "$mutual" || fail "both secrets: $(cat answer)"
! login "$(with_user "alice%$secret")?target_user=disk&target_password=another-secret-of-it" ||
  fail "the initiator took a target with a wrong secret"
tr '\0' '\n' <"/proc/$server/cmdline" >cmdline
for hidden in "$secret" "$target_secret"; do
  ! grep -qF "$hidden" log cmdline urls || fail "a secret is in the log or on the command line"
done
grep -q "refused" log || fail "the log says nothing about those who were refused"
end_server
chmod 644 chap
refused "chmod 600" "$program" --portal 127.0.0.1:0 --chap-file chap disk.img ||
  fail "a file of secrets that everybody can read was taken"
# The twin: without accounts the same wrong secret comes in.
serve disk.img
login "$(with_user "alice%a-secret-everybody-knows")" || fail "the twin of CHAP: $(cat answer)"
end_server

echo "digests of headers"
serve disk.img
printf '%s\n' "$ready" "$ready" | "$client" "$url" --header-digest >answer || fail "header digests"
[[ $(tail -1 answer) == good* ]] || fail "header digests: $(cat answer)"
end_server

echo "several units"
truncate -s 8M one.img two.img
printf one >one.img.head && printf two >two.img.head
dd if=one.img.head of=one.img conv=notrunc status=none
dd if=two.img.head of=two.img conv=notrunc status=none
serve disk.img one.img two.img
[[ $(wc -l <urls) -eq 3 ]] || fail "three units: $(cat urls)"
luns=$(ask "$ready" "a00000000000000000400000 in 64" | tail -1)
# Length 24, then units 0, 1, 2, whatever unit is asked.
list=good\ 0000001800000000$(printf '%s' 0000000000000000 0001000000000000 0002000000000000)
[[ $luns == "$list" ]] || fail "REPORT LUNS: $luns"
absent=${url%/*}/7
[[ $(url=$absent ask "a00000000000000000400000 in 64") == "$list" ]] || fail "REPORT LUNS of an absent unit"
[[ $(url=$absent ask "$ready") == "check 5 2500" ]] || fail "an absent unit"
read_first="28000000000000000100 in 512"
for entry in 1:6f6e65 2:74776f; do
  got=$(url=${url%/*}/${entry%%:*} ask "$ready" "$read_first" | tail -1)
  [[ $got == "good ${entry##*:}"* ]] || fail "unit ${entry%%:*} reads $got"
done
iscsi-ls --show-luns "iscsi://${url:8:$(expr index "${url:8}" /)-1}" >list || fail "iscsi-ls"
[[ $(grep -c 'Lun:' list) -eq 3 ]] || fail "iscsi-ls: $(cat list)"
serial() { url=${url%/*}/$1 ask "$ready" "1201800040 in 64" | tail -1; }
[[ $(serial 0) != "$(serial 1)" ]] || fail "two units with one serial number"
end_server

echo "reservations through kill -9"
key=00000000000000aa
read_reservation="5e010000000000004000 in 64"
# out ACTION TYPE KEY ACTION-KEY FLAGS: a PERSISTENT RESERVE OUT, as a line.
out() { printf '5f%02x%02x00000000001800 out %s%s00000000%02x000000' "$1" "$2" "$3" "$4" "$5"; }
none=0000000000000000
serve disk.img
[[ $(ask --initiator iqn.2026-11.test:a "$ready" "$(out 0 0 $none $key 1)" "$(out 1 1 $key $none 0)" | tail -2 | tr -d ' \n') == goodgood ]] ||
  fail "register and reserve"
end_server KILL
[[ -s disk.img.reservations ]] || fail "no file of reservations"
serve disk.img
held=$(ask --initiator iqn.2026-11.test:b "$ready" "$read_reservation" | tail -1)
[[ $held == *"$key"* && $held == good\ ????????00000010* ]] || fail "the reservation was lost: $held"
[[ $(ask --initiator iqn.2026-11.test:b "$ready" "2a000000000000000100 out 512*77" | tail -1) == conflict ]] ||
  fail "another initiator may write"
[[ $(ask --initiator iqn.2026-11.test:a "$ready" "2a000000000000000100 out 512*66" | tail -1) == good* ]] ||
  fail "the holder may not write"
ask --initiator iqn.2026-11.test:a "$ready" "$(out 3 0 $key $none 0)" >/dev/null
[[ ! -e disk.img.reservations ]] || fail "the file of reservations stays behind CLEAR"
# The twin: without APTPL the same reservation is gone.
ask --initiator iqn.2026-11.test:a "$ready" "$(out 0 0 $none $key 0)" "$(out 1 1 $key $none 0)" >/dev/null
end_server KILL
serve disk.img
held=$(ask --initiator iqn.2026-11.test:b "$ready" "$read_reservation" | tail -1)
[[ $held == good\ ????????00000000 ]] || fail "the twin of APTPL: $held"
end_server
# A damaged file is no reason to forget who may write.
serve disk.img
ask --initiator iqn.2026-11.test:a "$ready" "$(out 0 0 $none $key 1)" "$(out 1 1 $key $none 0)" >/dev/null
end_server
printf 'x' | dd of=disk.img.reservations bs=1 seek=20 conv=notrunc status=none
refused "checksum" "$program" --portal 127.0.0.1:0 disk.img || fail "a damaged file was taken"
rm disk.img.reservations

echo "two initiators"
serve disk.img
mkfifo commands
"$client" "$url" --initiator iqn.2026-11.test:b <commands >b.out &
other=$!
exec 7>commands
tell_b() {  # tell_b LINE: its answer is the last line of b.out
  local lines i
  lines=$(wc -l <b.out)
  printf '%s\n' "$1" >&7
  for ((i = 0; i < 300; i++)); do
    [[ $(wc -l <b.out) -gt $lines ]] && break
    sleep 0.1
  done
  tail -1 b.out
}
[[ $(tell_b $ready) == "check 6 2900" ]] || fail "b is not told of the power on"
[[ $(tell_b $ready) == good* ]] || fail "b: $(cat b.out)"
# Write cache off, told to the others once.
mode="151000001800 out 000000000812$(printf '%036d' 0)"
ask --initiator iqn.2026-11.test:a "$ready" "$mode" | tail -1 | grep -q good || fail "MODE SELECT"
[[ $(tell_b $ready) == "check 6 2a01" ]] || fail "b is not told of new mode parameters: $(cat b.out)"
[[ $(tell_b $ready) == good* ]] || fail "b is told twice"
ask --initiator iqn.2026-11.test:a "$ready" "$(out 0 0 $none $key 0)" >/dev/null
[[ $(tell_b "$(out 6 0 $none 00000000000000bb 0)") == good* ]] || fail "b registers"
ask --initiator iqn.2026-11.test:a "$ready" "$(out 1 5 $key $none 0)" "$(out 2 5 $key $none 0)" >/dev/null
[[ $(tell_b $ready) == "check 6 2a04" ]] || fail "b is not told of the release: $(cat b.out)"
ask --initiator iqn.2026-11.test:a "$ready" "$(out 4 5 $key 00000000000000bb 0)" >/dev/null
[[ $(tell_b $ready) == "check 6 2a05" ]] || fail "b is not told that it was preempted: $(cat b.out)"
exec 7>&-
wait "$other" || fail "the other session was lost"
end_server

echo "QEMU's iscsi:// driver"
if ! qemu-img --help | grep -q '^Supported formats:.* iscsi'; then
  echo "skipped: QEMU has no iscsi driver here (qemu-block-extra)"
else
  head -c 16M /dev/urandom >image
  truncate -s 16M disk.img
  serve disk.img
  for digest in none crc32c; do
    target=driver=raw,file.driver=iscsi,file.transport=tcp,file.portal=$(cut -d/ -f3 <<<"$url")
    target+=,file.target=iqn.2026-11.test:target,file.lun=0,file.header-digest=$digest
    qemu-img convert -n -f raw --target-image-opts image "$target" >qemu.log 2>&1 ||
      fail "qemu-img convert, digest $digest: $(cat qemu.log)"
    cmp image disk.img || fail "content, digest $digest"
    qemu-img compare -f raw -F raw image "$url" >qemu.log 2>&1 || fail "qemu-img compare: $(cat qemu.log)"
    qemu-io -f raw -c 'write -P 0x5a 1M 64k' -c 'flush' -c 'discard 4M 1M' -c 'write -z 8M 1M' \
      -c 'read -P 0x5a 1M 64k' -c 'read -P 0 4M 1M' -c 'read -P 0 8M 1M' "$url" >qemu.log 2>&1 ||
      fail "qemu-io: $(cat qemu.log)"
    ! grep -qiE 'fail|error' qemu.log || fail "qemu-io: $(cat qemu.log)"
    # The judge's own twin: one other byte is seen.
    printf 'x' | dd of=disk.img bs=1 seek=12345678 conv=notrunc status=none
    ! qemu-img compare -f raw -F raw image "$url" >qemu.log 2>&1 || fail "qemu-img compare sees no difference"
  done
  end_server
fi
ended=yes
echo passed
