#!/bin/bash
# What nas-scsi says when its disk on the real nfs-ganesha cannot be opened: server away, export
# or file missing, no permission; versions 3 and 4.
set -euo pipefail
source "$(dirname "$0")/../lib/harness.sh"
source "$(dirname "$0")/../lib/nfs_server.sh"

in_own_network "$@"
begin
begin_nfs
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
finish
