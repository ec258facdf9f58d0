#!/bin/bash
# Debian's stock kernel in leanvm on a real KVM, with two disks on leanvm's SCSI adapter: a file
# system on one, libiscsi's conformance suite on the other's /dev/sg. Judges: the guest's kernel,
# e2fsck and debugfs on the disk's file, the suite's verdicts.
#
# GROUPS_OF_TESTS: patterns of names; a few unless given. SECONDS_OF_GROUP: what one may take.
source "$(dirname "$0")/linux_guest.sh"
source "$(dirname "$0")/scsi_judge.sh"
here=$(dirname "$(realpath "$0")")
few="Inquiry Mandatory ReadCapacity16 Reserve6"
groups_of_tests=${GROUPS_OF_TESTS:-$few} seconds_of_group=${SECONDS_OF_GROUP:-600}
guest_seconds=86400  # the lab's bound is the one that counts
begin_guests
need iscsi-test-cu sg_reset mkfs.ext4
guest_modules=(virtio_scsi sd_mod sg)
root_programs=("$(command -v iscsi-test-cu)" "$(command -v sg_reset)" "$(command -v mkfs.ext4)")
make_initrd
cat >scsi <<'SCRIPT'
export PATH=/bin
mkdir -p /tmp && mount -t tmpfs none /tmp
set -f
status=0
sh /scsi_guest $(cat /seconds) "$(cat /groups)" 2>&1 || status=$?
[ $status -eq 0 ] || dmesg | tail -n 40
echo "guest: ended with $status"
poweroff -f
SCRIPT
echo "$groups_of_tests" >groups
echo "$seconds_of_group" >seconds
make_root root.img scsi groups seconds "$here/scsi_guest" "$here/sg_suite" "$here/../lib/iscsi_suite.awk"
truncate -s 96M files.img
truncate -s "$suite_bytes" suite.img
say "$SECONDS s: two SCSI disks"
: >scsi.log
run_guest scsi.log "$elf" 1 scsi --disk root.img,raw --scsi files.img,raw --scsi suite.img,raw
tail --pid="$guest" -n +1 -s 0.5 -f scsi.log | sed -u 's/\r$//; /^guest: /d' &
shower=$!
end_guest scsi.log
wait "$shower" || true
tr -d '\r' <scsi.log >said
says said "ended with 0" || fail "the guest: $(grep "^guest: " said | tail -n 1) $(cat scsi.log.err)"
judge_files files.img said "$work"
finish "passed in $SECONDS s"
