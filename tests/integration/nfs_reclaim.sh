#!/bin/bash
# Space goes back to the server: UNMAP and WRITE SAME of a disk on the real nfs-ganesha (version 4),
# sent by libiscsi, lower the file's blocks on the server; what was given back reads as zeros, and
# what is beside it stays. A server that is killed before it has stored a hole, and what was
# written there before it, brings nothing back; with a target that does not send unflushed changes
# again, it does. A server without version 4.2, and version 3, are not asked for holes; one that
# loses 4.2 on the way gets zeros.
# MIB: how much is given back.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
mib=${MIB:-1024} margin=16
iscsi_cdb=$build/tests/integration/iscsi_cdb
lossy=$build/tests/lib/lossy_files.so
file=$work/export/disk.img
flush=35000000000000000000

serve_disk() {  # serve_disk COMMAND...: a target before its disk
  rm -f "$work/urls"
  "$@" >"$work/urls" 2>"$work/target.log" &
  target=$!
  children+=("$target")
  wait_until 60 test -s "$work/urls" || fail "the target: $(cat "$work/target.log")"
  coproc initiator { exec "$iscsi_cdb" "$(head -n 1 "$work/urls")" 2>"$work/initiator.log"; }
  children+=("$initiator_PID")
  to=${initiator[1]} from=${initiator[0]}
  ask 000000000000
  [[ $answer == "check 6 "* ]] || fail "no unit attention: $answer"
}
serve_nas() { serve_disk "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 "$@"; }
end_disk() {
  exec {to}>&- {from}<&-
  kill "$target"
  wait "$target" || fail "the target ended with $?: $(tail -n 3 "$work/target.log")"
}
ask() {  # ask COMMAND: sets $answer
  echo "$1" >&"$to"
  read -r -t 120 answer <&"$from" || fail "no answer to '$1': $(cat "$work/initiator.log")"
}
good() {  # good COMMAND WHAT
  ask "$1"
  [[ $answer == good* ]] || fail "$2: $answer"
}
# Places and lengths are in MiB.
blocks_of() { echo $(($1 * 2048)); }
lba() { printf "%0$1x" "$(blocks_of "$2")"; }
unmap_of() { echo "42000000000000001800 out 0016001000000000$(lba 16 "$1")$(lba 8 "$2")00000000"; }
write_a() { good "2a00$(lba 8 "$1")00080000 out 1048576*61" "WRITE at $1"; }  # one MiB
read_byte() {  # read_byte PLACE: sets $byte, or fails if a block has more than one
  good "2800$(lba 8 "$1")00000800 in 4096" "READ at $1"
  byte=${answer:5:2}
  [[ $(tr -d '\n' <<<"${answer#good }" | sed "s/$byte//g") == '' ]] || fail "at $1: $answer"
}
is_thin() {  # by READ CAPACITY(16): LBPME, LBPRZ
  good "9e100000000000000000000000200000 in 32" "READ CAPACITY"
  [[ ${answer:33:1} == [cdef] ]]
}
status_of() {  # status_of PLACE: sets $status and $count, of blocks, by GET LBA STATUS
  good "9e12$(lba 16 "$1")000000180000 in 24" "GET LBA STATUS"
  count=$((16#${answer:37:8})) status=${answer:45:2}
}
used() { stat -c %b "$file"; }  # in 512 bytes
has_zeros() { cmp -s -n $(($2 << 20)) -i $(($1 << 20)):0 "$file" /dev/zero; }  # PLACE LENGTH
has_old() { cmp -s -n $(($2 << 20)) -i $(($1 << 20)):0 "$file" <(tr '\0' Z </dev/zero); }
fill() {  # fill LENGTH
  rm -f "$file"
  tr '\0' Z </dev/zero | head -c $(($1 << 20)) >"$file" || [[ $? -eq 141 ]]
  sync "$file"
}
cp "$work/ganesha.conf" "$work/plain.conf"
without_42() { sed 's/NFSV4 {/NFSV4 { Minor_Versions = 0;/' "$work/plain.conf" >"$work/ganesha.conf"; }
with_42() { cp "$work/plain.conf" "$work/ganesha.conf"; }

serve_nfs
say "UNMAP of $mib MiB"
fill $((mib + 2 * margin))
serve_nas "$(nfs_uri 4 disk.img)"
is_thin || fail "the unit is not thin: $answer"
before=$(used)
good "$(unmap_of $margin "$mib")" UNMAP
good "$flush" "SYNCHRONIZE CACHE"
freed=$((before - $(used)))
say "  $freed of $(blocks_of "$mib") blocks came back"
[[ $((freed * 100)) -ge $(($(blocks_of "$mib") * 99)) ]] || fail "less than 99 % came back"
has_zeros $margin "$mib" || fail "the server's file is not zero there"
has_old 0 $margin && has_old $((margin + mib)) $margin || fail "what is beside it was changed"
for place in $margin $((margin + mib / 2)) $((margin + mib - 1)); do
  read_byte "$place"
  [[ $byte == 00 ]] || fail "it reads $byte at $place"
done
read_byte 0
[[ $byte == 5a ]] || fail "beside it is $byte"
status_of $margin
[[ $status == 01 && $count -eq $(blocks_of "$mib") ]] || fail "its status is $status for $count blocks"
write_a $((margin + 1))
status_of $((margin + 1))
[[ $status == 00 && $count -eq 2048 ]] || fail "written again, its status is $status for $count blocks"

say "WRITE SAME with UNMAP"
before=$(used)
good "9308$(lba 16 0)$(lba 8 $margin)0000 out 512*00" "WRITE SAME"
[[ $((before - $(used))) -ge $(($(blocks_of $margin) * 99 / 100)) ]] || fail "WRITE SAME gave nothing back"
has_zeros 0 $margin || fail "WRITE SAME left something"
end_disk
stop_nfs

# killed COMMAND...: a target whose server is killed with a hole that it has not stored, and has
# lost; 1: what is there then is not the hole.
killed() {
  local place
  fill 16
  serve_nfs "$lossy"
  serve_disk "$@" "$(nfs_uri 4 disk.img)"
  is_thin || fail "the unit is not thin: $answer"
  write_a 4
  write_a 5
  good "$(unmap_of 4 1)" UNMAP
  good "$(unmap_of 8 1)" UNMAP
  stop_nfs
  has_old 0 16 || fail "the server lost nothing"
  serve_nfs "$lossy"
  for place in 4 8; do
    read_byte $place
    [[ $byte == 00 ]] || say "  it reads $byte at $place"
  done
  good "$flush" "SYNCHRONIZE CACHE"
  end_disk
  stop_nfs
  has_zeros 4 1 && has_zeros 8 1 && cmp -s -n 1048576 -i 5242880:0 "$file" <(tr '\0' a </dev/zero)
}
say "the server is killed before it has stored a hole"
killed "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 --lease 0 || fail "the hole is not there"
say "when unflushed changes are not sent again, it goes red"
! killed "$build/tests/integration/careless_target" --forget-unflushed || fail "nothing was missed"

say "a server that forgot the session"
with_42
sed -i 's/NFSV4 {/NFSV4 { Lease_Lifetime = 2;/' "$work/ganesha.conf"
fill 16
serve_nfs
TIDEPOOL_LOG=debug serve_nas --lease 0 "$(nfs_uri 4 disk.img)"
good "$(unmap_of 1 1)" UNMAP
sleep 6
good "$(unmap_of 2 1)" "UNMAP after the lease"
end_disk
grep -q "forgot the session" "$work/target.log" || fail "the server forgot nothing"
has_zeros 1 2 || fail "no hole after the lease"
stop_nfs

say "a server that makes no holes any more"
with_42
fill 16
serve_nfs
serve_nas --lease 0 "$(nfs_uri 4 disk.img)"
stop_nfs
without_42
serve_nfs
before=$(used)
good "$(unmap_of 1 4)" UNMAP
good "$flush" "SYNCHRONIZE CACHE"
end_disk
has_zeros 1 4 && has_old 5 11 || fail "zeros were not written"
[[ $(used) -eq $before ]] || fail "it made a hole"
grep -q "zeros are written instead" "$work/target.log" || fail "nobody was told"

say "a server that never did"
for version in 3 4; do
  serve_nas --lease 0 "$(nfs_uri $version disk.img)"
  ! is_thin || fail "version $version: the unit is thin: $answer"
  ask "$(unmap_of 5 1)"
  [[ $answer == "check 5 2000" ]] || fail "version $version: UNMAP: $answer"
  end_disk
done
has_old 5 1 || fail "a refused UNMAP changed something"
stop_nfs
finish
