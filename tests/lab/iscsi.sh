#!/bin/bash
# Linux's own initiator (open-iscsi) on disks of nas-scsi: ext4 and fio's verification over it,
# with digests and CHAP; the sg3-utils on its sg devices; two initiators and a reservation that
# outlives the server. The judges are e2fsck, fio, sg3-utils' own checks and the file.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"

program=$build/scsi/tools/nas-scsi
name=iqn.2026-11.test:lab
portal=127.0.0.1:3260
[[ ${TIDEPOOL_LAB:-} == yes ]] || skip "it changes /etc/iscsi: in the lab only"
modprobe fuse
modprobe -a iscsi_tcp sd_mod sg 2>/dev/null || skip "this kernel has no iscsi_tcp"
begin
dmesg --clear  # of what other scripts broke on purpose
logout_all() {
  local status=$?
  iscsiadm --mode node --logoutall=all >/dev/null 2>&1 || true
  return "$status"
}
trap 'logout_all || clean_up; clean_up' EXIT
need iscsiadm iscsid fio e2fsck sg_inq sg_vpd sg_persist sg_unmap sg_write_same sg_compare_and_write \
  sg_get_lba_status sg_turs sg_luns sg_opcodes sg_sanitize sg_requests
cd "$work"
mount_point=$work/fs
took() { say "$SECONDS s: $1"; }

serve() {  # serve [OPTION...] DISK...
  "$program" --portal "$portal" --target "$name" "$@" >urls 2>>server.log &
  server=$!
  children=("$server")
  wait_until 60 test -s urls || fail "nas-scsi: $(cat server.log)"
}
admin() { iscsiadm "$@" >admin.log 2>&1 || fail "iscsiadm $*: $(cat admin.log)"; }
set_node() { admin --mode node --targetname "$name" --portal "$portal" --op update --name "$1" --value "$2"; }
# The disk of unit $2 that the session of initiator $1 sees; sd or sg as $3 says.
device_of() {
  local session entry
  for session in /sys/class/iscsi_session/session*; do
    [[ $(cat "$session/initiatorname") == "$1" ]] || continue
    for entry in "$session"/device/target*/*:*:*:"$2"/"$([[ $3 == sg ]] && echo scsi_generic || echo block)"/*; do
      [[ -e $entry ]] && echo "/dev/${entry##*/}" && return
    done
  done
  return 1
}
has_device() { device_of "$@" >/dev/null && [[ -e $(device_of "$@") ]]; }

took "discovery, CHAP, digests"
mkdir -p /etc/iscsi /run/lock/iscsi
echo "InitiatorName=iqn.2026-11.test:lab-a" >/etc/iscsi/initiatorname.iscsi
# In a session of its own: what ends it ends its group.
setsid iscsid --foreground >iscsid.log 2>&1 &
daemon_of_initiator=$!
truncate -s 192M disk.img
truncate -s 16M small.img
secret=the-labs-own-secret
(umask 077; echo "initiator lab $secret" >chap)
serve --chap-file chap disk.img small.img
children=("$server" "$daemon_of_initiator")
printf '%s\n' "node.session.auth.authmethod = CHAP" "node.session.auth.username = lab" \
  "node.session.auth.password = $secret" "discovery.sendtargets.auth.authmethod = CHAP" \
  "discovery.sendtargets.auth.username = lab" "discovery.sendtargets.auth.password = $secret" \
  "node.startup = manual" "node.leading_login = No" \
  "node.conn[0].timeo.login_timeout = 60" "node.session.timeo.replacement_timeout = 120" \
  "node.session.iscsi.InitialR2T = No" "node.session.iscsi.ImmediateData = Yes" \
  "node.session.err_timeo.abort_timeout = 60" "node.session.err_timeo.lu_reset_timeout = 60" \
  "node.conn[0].timeo.noop_out_interval = 0" "node.conn[0].timeo.noop_out_timeout = 0" \
  "node.conn[0].iscsi.HeaderDigest = CRC32C" "node.conn[0].iscsi.DataDigest = CRC32C" >/etc/iscsi/iscsid.conf
admin --mode discovery --type sendtargets --portal "$portal"
grep -q "$name" admin.log || fail "discovery: $(cat admin.log)"
set_node node.session.auth.password wrong-secret-of-the-lab
! iscsiadm --mode node --targetname "$name" --login >admin.log 2>&1 || fail "a wrong secret was let in"
set_node node.session.auth.password "$secret"
admin --mode node --targetname "$name" --login
wait_until 60 has_device iqn.2026-11.test:lab-a 0 sd || fail "no disk: $(dmesg | tail -20)"
disk=$(device_of iqn.2026-11.test:lab-a 0 sd)
small=$(device_of iqn.2026-11.test:lab-a 1 sg)
[[ $(blockdev --getsize64 "$disk") -eq $((192 << 20)) ]] || fail "its size"
grep -q CRC32C <(iscsiadm --mode session --print 2 | grep -i digest) || fail "no digests were agreed on"

took "ext4 and fio's verification"
mkfs.ext4 -q -b 4096 "$disk"
mount_on "$mount_point" -o discard "$disk"
fio --name=v --directory="$mount_point" --rw=randwrite --bs=4k --size=24m --iodepth=16 --fsync=128 \
  --ioengine=libaio --direct=1 --verify=xxhash --verify_fatal=1 --do_verify=1 >fio.log 2>&1 || fail "fio: $(cat fio.log)"
sync
before=$(stat -c %b disk.img)
rm "$mount_point"/v.*
sync
fstrim "$mount_point"
is_smaller() { [[ $(stat -c %b disk.img) -le $((before - 20 * 2048)) ]]; }
wait_until 60 is_smaller || fail "fstrim gave nothing back: $before sectors, then $(stat -c %b disk.img)"
head -c 8M /dev/urandom >"$mount_point/file"
sum=$(sha256sum <"$mount_point/file")
unmount_from "$mount_point"
e2fsck -fn "$disk" >fsck.log 2>&1 || fail "e2fsck: $(cat fsck.log)"

took "the server is killed and comes back"
mount_on "$mount_point" "$disk"
head -c 8M /dev/urandom >"$mount_point/second"
sync
kill -9 "$server"
wait "$server" 2>/dev/null || true
: >urls
serve --chap-file chap disk.img small.img
children=("$server" "$daemon_of_initiator")
wait_until 120 sha256sum "$mount_point/second" >/dev/null || fail "the session did not come back"
echo 3 >/proc/sys/vm/drop_caches
[[ $(sha256sum <"$mount_point/file") == "$sum" ]] || fail "content after the server's death"
unmount_from "$mount_point"
! dmesg | grep -E 'I/O error|EXT4-fs error' || fail "the kernel saw errors"

took "sg3-utils"
# The server's restart is told to the first who asks.
wait_until 60 sg_turs "$small" >/dev/null 2>&1 || fail "sg_turs: $(sg_turs "$small" 2>&1)"
sg_inq "$small" | grep -q TIDEPOOL || fail "sg_inq: $(sg_inq "$small")"
for page in sv sn di bl bdc lbpv tpc; do
  sg_vpd --page="$page" "$small" >vpd.log 2>&1 || fail "sg_vpd $page: $(cat vpd.log)"
done
sg_opcodes "$small" >opcodes.log || fail "sg_opcodes"
sg_requests "$small" >/dev/null || fail "sg_requests"
[[ $(sg_luns "$small" | grep -cE '^ +[0-9a-f]{16}') -eq 2 ]] || fail "sg_luns: $(sg_luns "$small")"
head -c 1024 /dev/zero | tr '\0' 'a' >compare
truncate -s 512 zeros
cat zeros <(head -c 512 compare) >swap
sg_compare_and_write --in=swap --lba=10 --num=1 --xferlen=1024 "$small" || fail "sg_compare_and_write of what is there"
[[ $(dd if=small.img bs=512 skip=10 count=1 status=none | head -c 1) == a ]] || fail "it wrote nothing"
status=0
sg_compare_and_write --in=swap --lba=10 --num=1 --xferlen=1024 "$small" 2>/dev/null || status=$?
[[ $status -eq 14 ]] || fail "sg_compare_and_write of what is not there ends with $status, not with MISCOMPARE"
sg_write_same --16 --in=compare --xferlen=512 --lba=64 --num=1024 "$small" || fail "sg_write_same"
[[ $(dd if=small.img bs=512 skip=64 count=1024 status=none | tr -d a | wc -c) -eq 0 ]] || fail "what sg_write_same wrote"
sg_get_lba_status --lba=64 --brief "$small" >lba.log || fail "sg_get_lba_status"
sg_unmap --force --lba=64 --num=1024 "$small" || fail "sg_unmap"
[[ $(dd if=small.img bs=512 skip=64 count=1024 status=none | tr -d '\0' | wc -c) -eq 0 ]] || fail "what sg_unmap left"
printf 'z%.0s' {1..4} >pattern
sg_sanitize --overwrite --pattern=pattern --quick --wait "$small" >sanitize.log 2>&1 || fail "sg_sanitize: $(cat sanitize.log)"
[[ $(tr -d z <small.img | wc -c) -eq 0 ]] || fail "what sg_sanitize left"

took "two initiators, a reservation, a restart"
admin --mode iface --interface b --op new
admin --mode iface --interface b --op update --name iface.initiatorname --value iqn.2026-11.test:lab-b
admin --mode node --targetname "$name" --portal "$portal" --interface b --op new
iscsiadm --mode node --targetname "$name" --portal "$portal" --interface b --login >admin.log 2>&1 || fail "the second initiator: $(cat admin.log)"
wait_until 60 has_device iqn.2026-11.test:lab-b 1 sg || fail "the second initiator's disk"
other=$(device_of iqn.2026-11.test:lab-b 1 sg)
sg_persist --out --register --param-sark=0xa --param-aptpl "$small" >persist.log || fail "register: $(cat persist.log)"
sg_persist --out --reserve --param-rk=0xa --prout-type=1 "$small" >persist.log || fail "reserve: $(cat persist.log)"
status=0
sg_write_same --16 --in=compare --xferlen=512 --lba=0 --num=1 "$other" 2>/dev/null || status=$?
[[ $status -eq 24 ]] || fail "another's write ends with $status, not with RESERVATION CONFLICT"
kill -9 "$server"
wait "$server" 2>/dev/null || true
: >urls
serve --chap-file chap disk.img small.img
children=("$server" "$daemon_of_initiator")
is_back() { sg_persist --in --read-reservation "$other" 2>/dev/null | grep -qi 'key=0xa'; }
wait_until 120 is_back || fail "the reservation is gone: $(sg_persist --in --read-reservation "$other" 2>&1)"
status=0
sg_write_same --16 --in=compare --xferlen=512 --lba=0 --num=1 "$other" 2>/dev/null || status=$?
[[ $status -eq 24 ]] || fail "after the restart another's write ends with $status"
wait_until 60 sg_turs "$small" >/dev/null 2>&1 || fail "sg_turs: $(sg_turs "$small" 2>&1)"
sg_write_same --16 --in=compare --xferlen=512 --lba=0 --num=1 "$small" || fail "the holder's write"
sg_persist --out --clear --param-rk=0xa "$small" >persist.log || fail "clear: $(cat persist.log)"

admin --mode node --targetname "$name" --logout
kill "$server"
wait "$server" || fail "nas-scsi: $(cat server.log)"
kill "$daemon_of_initiator"
wait "$daemon_of_initiator" || true
children=()
finish "passed in $SECONDS s"
