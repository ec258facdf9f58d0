# shellcheck shell=bash
# The disks that scsi_guest uses, seen from outside its guest.
#
#   source "$(dirname "$0")/scsi_judge.sh"      the caller has fail()
#   $suite_bytes                                of the disk for the suite
#   judge_files IMAGE LOG WORK                  LOG: what the guest said; WORK: a directory

# A unit of 32 MiB or more the suite writes and reads in one command, which Linux's sg cannot send:
# it has no more than 4 MiB in the 126 pieces that the adapter takes.
suite_bytes=$((16 << 20))

judge_files() {
  local image=$1 log=$2 work=$3 kept
  e2fsck -fn "$image" >"$work/e2fsck" 2>&1 || fail "$(cat "$work/e2fsck")"
  debugfs -R "dump /kept $work/kept" "$image" 2>/dev/null
  [[ $(stat -c %s "$work/kept") -eq $((4 << 20)) ]] || fail "the guest's file has $(stat -c %s "$work/kept") bytes"
  kept=$(sha256sum <"$work/kept")
  grep -qx "kept: ${kept%% *}" "$log" || fail "the disk's file holds another file than the guest saw"
  # Of what the guest wrote, 16 MiB were given back; the rest is files and the file system's own.
  [[ $(stat -c %b "$image") -lt $((24 << 11)) ]] || fail "what was trimmed is still there: $(stat -c %b "$image") sectors"
}
