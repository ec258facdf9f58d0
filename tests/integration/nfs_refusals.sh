#!/bin/bash
# What nas-scsi says when its disk on the real nfs-ganesha cannot be opened: server away, export
# or file missing, no permission, in use; versions 3 and 4.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
nas_scsi=$build/scsi/tools/nas-scsi

refused() {  # refused URI TEXT
  local status=0
  timeout 60 "$nas_scsi" --portal 127.0.0.1:0 "$1" >"$work/error.log" 2>&1 || status=$?
  [[ $status -eq 1 ]] || fail "'$1': status $status: $(cat "$work/error.log")"
  grep -qF -- "$1" "$work/error.log" || fail "'$1' is not named: $(cat "$work/error.log")"
  grep -q -- "$2" "$work/error.log" || fail "'$1' says: $(cat "$work/error.log")"
  say "  $(cat "$work/error.log")"
}

truncate -s 16M "$work/export/disk.img" "$work/export/private.img"
chmod 600 "$work/export/private.img"
mkdir "$work/export/directory"
for version in 3 4; do
  say "version $version: the server is away"
  refused "$(nfs_uri $version disk.img)" "cannot connect to"
done
serve_nfs
for version in 3 4; do
  say "version $version: no such file, no such export, no permission, no file"
  refused "$(nfs_uri $version missing.img)" "no such file"
  refused "$(nfs_uri $version missing/disk.img)" "no such file\|is it exported"
  uri=$(nfs_uri $version disk.img)
  refused "${uri/export/elsewhere}" "no such file\|is it exported"
  refused "$(nfs_uri $version private.img)&uid=4711&gid=4711" "permission denied"
  refused "$(nfs_uri $version directory)" "not a regular file"
done
refused "nfs://127.0.0.1/disk.img?version=5" "'5' is no value of 'version'"

serve_disk() {
  rm -f "$work/urls"
  "$nas_scsi" --portal 127.0.0.1:0 --lease 10 "$1" >"$work/urls" 2>"$work/nas.log" &
  user=$!
  children+=("$user")
  wait_until 60 test -s "$work/urls" || fail "nas-scsi: $(cat "$work/nas.log")"
}
for version in 3 4; do
  say "version $version: a disk that is in use, by whom; then no more"
  uri=$(nfs_uri $version disk.img)
  rm -rf "$work/export/disk.img.lock"
  serve_disk "$uri"
  refused "$uri" "is in use by $(hostname) (process $user) since 20"
  kill "$user"
  wait "$user" || fail "nas-scsi ended with $?: $(cat "$work/nas.log")"
  serve_disk "$uri"  # released: at once
  [[ -e $work/export/disk.img.lock/claim.00000000000000000002 ]] || fail "no second claim"
  kill "$user"
  wait "$user" || fail "nas-scsi ended with $?: $(cat "$work/nas.log")"
done
finish
