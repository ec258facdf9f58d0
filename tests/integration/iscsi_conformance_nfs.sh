#!/bin/bash
# libiscsi's conformance suite against nas-scsi whose disk is a file on the real nfs-ganesha.
# VERSION: of NFS, 3 or 4; FAMILY and OPTIONS: as iscsi_conformance.sh has them.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
serve_nfs
truncate -s 100M "$work/export/disk.img"
status=0
DISK=$(nfs_uri "${VERSION:-3}" disk.img) "$(dirname "$0")/iscsi_conformance.sh" || status=$?
[[ $status -ne 77 ]] || skip "iscsi-test-cu is not installed"
[[ $status -eq 0 ]] || fail "the suite, status $status"
[[ ! -e $work/export/disk.img.reservations.new ]] || fail "half a file of reservations was left"
stop_nfs
finish
