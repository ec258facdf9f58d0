#!/bin/bash
# What an NFS server refuses, as SCSI tells it: never GOOD. A proxy puts each status into real
# replies of nfs-ganesha to WRITE, READ and COMMIT, versions 3 and 4, and DEALLOCATE; then the server
# itself says that its file system is full, that the file may not be used. A flush that failed is
# followed by one that counts only when the server has taken again what the first one covered.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
begin_nfs "$@"
mount_on "$work/export" -t tmpfs -o size=8m tmpfs
need python3
iscsi_cdb=$build/tests/integration/iscsi_cdb
answers=$work/answers

# status, sense of WRITE and SYNCHRONIZE CACHE, sense of READ, versions that have it
medium="3 0c00" unread="3 1100" full="7 2707" protected="7 2700" failed="4 4400"
table=(
  "1|$protected|$unread|3 4" "2|$medium|$unread|3 4" "5|$medium|$unread|3 4"
  "6|$failed|$failed|3 4" "13|$protected|$unread|3 4" "17|$medium|$unread|3 4"
  "18|$medium|$unread|3 4" "19|$failed|$failed|3" "20|$medium|$unread|3 4"
  "21|$medium|$unread|3 4" "22|$failed|$failed|3 4" "27|$full|$unread|3 4"
  "28|$full|$unread|3 4" "30|$protected|$unread|3 4" "31|$medium|$unread|3 4"
  "63|$medium|$unread|3 4" "66|$medium|$unread|3 4" "69|$full|$unread|3 4"
  "70|$failed|$failed|3 4" "71|$medium|$unread|3" "10001|$failed|$failed|3 4"
  "10002|$medium|$unread|3" "10004|$failed|$failed|3 4" "10005|$medium|$unread|3 4"
  "10006|$medium|$unread|3 4" "10014|$failed|$failed|4" "10016|$protected|$unread|4"
  "10019|$medium|$unread|4" "10021|$medium|$unread|4" "10029|$medium|$unread|4"
  "10038|$protected|$unread|4" "10044|$failed|$failed|4" "4711|$medium|$unread|3 4"
  # The server is asked again, or on a new connection, until it has done it.
  "10008|||3 4" "10011|||4" "10012|||4" "10013|||4" "10015|||4" "10018|||4" "10022|||4"
  "10023|||4" "10046|||4"
)
declare -A command=(
  [WRITE]="2a000000000800000100 out 512*5a" [COMMIT]="35000000000000000000"
  [READ]="28000000000800000100 in 512"
  [DEALLOCATE]="42000000000000001800 out 001600100000000000000000000000080000000800000000"
)
# With these DEALLOCATE is not offered, and zeros are written: nfs_reclaim.sh.
no_holes=" 10004 10021 10025 10036 10038 10044 "

serve_disk() {  # serve_disk URI
  rm -f "$work/urls"
  "$build/scsi/tools/nas-scsi" --portal 127.0.0.1:0 --lease 0 "$1" >"$work/urls" \
    2>"$work/nas.log" &
  target=$!
  children+=("$target")
  wait_until 60 test -s "$work/urls" || fail "nas-scsi: $(cat "$work/nas.log")"
  coproc initiator { exec "$iscsi_cdb" "$(head -n 1 "$work/urls")" 2>"$work/initiator.log"; }
  children+=("$initiator_PID")
  to=${initiator[1]} from=${initiator[0]}
  ask 000000000000
  [[ $answer == "check 6 "* ]] || fail "no unit attention: $answer"
}
end_disk() {
  exec {to}>&- {from}<&-
  kill "$target"
  wait "$target" || fail "nas-scsi ended with $?: $(tail -n 3 "$work/nas.log")"
}
ask() {  # ask COMMAND: sets $answer
  echo "$1" >&"$to"
  read -r -t 60 answer <&"$from" || fail "no answer to '$1': $(cat "$work/initiator.log")"
}
refused() {  # refused COMMAND SENSE WHAT
  ask "$1"
  [[ $answer == "check $2" ]] || fail "$3: '$answer', not 'check $2'"
}
done_well() {  # done_well COMMAND WHAT
  ask "$1"
  [[ $answer == good* ]] || fail "$2: $answer"
}

fresh() {  # fresh SIZE; the server may keep the old file open
  truncate -s 0 "$work/export/disk.img"
  rm "$work/export/disk.img"
  truncate -s "$1" "$work/export/disk.img"
}

serve_nfs
start_proxy --answers "$answers"
for version in 3 4; do
  fresh 4M
  serve_disk "$(proxy_uri "$version" disk.img)"
  rows=0
  for row in "${table[@]}"; do
    IFS='|' read -r status writing reading versions <<<"$row"
    [[ $versions == *$version* ]] || continue
    for operation in WRITE COMMIT READ DEALLOCATE; do
      sense=$writing
      [[ $operation != READ ]] || sense=$reading
      [[ $operation != DEALLOCATE || ($version -eq 4 && $no_holes != *" $status "*) ]] || continue
      what="version $version: status $status of $operation"
      # Those that have an end of their own are refused more than once.
      echo "$operation $status $([[ -n $sense ]] && echo 1 || echo 2)" >"$answers.new"
      mv "$answers.new" "$answers"
      if [[ -n $sense ]]; then
        refused "${command[$operation]}" "$sense" "$what"
      else
        done_well "${command[$operation]}" "$what"
      fi
      [[ ! -e $answers ]] || fail "$what: it was not given"
      done_well "${command[$operation]}" "version $version: $operation after status $status"
      rows=$((rows + 1))
    done
  done
  what="version $version: a flush after one that failed"
  done_well "${command[WRITE]}" "$what: WRITE"
  printf 'COMMIT 5 1\nWRITE 28 2\n' >"$answers.new"  # WRITE: sent again, by us and for the next flush
  mv "$answers.new" "$answers"
  refused "${command[COMMIT]}" "$medium" "$what: the first"
  refused "${command[COMMIT]}" "$full" "$what: what it covered is refused"
  [[ ! -e $answers ]] || fail "$what: it was not sent again"
  done_well "${command[READ]}" "$what: READ"
  done_well "${command[COMMIT]}" "$what: at last"
  what="version $version: a server that was restarted and has no space for what it had not stored"
  done_well "${command[WRITE]}" "$what: WRITE"
  echo "WRITE 28 3" >"$answers.new"
  mv "$answers.new" "$answers"
  stop_nfs
  serve_nfs
  done_well "${command[COMMIT]}" "$what: a flush waits for it"
  [[ ! -e $answers ]] || fail "$what: nothing was sent again"
  end_disk
  say "version $version: $rows refusals told as they should be"
done
end_proxy

for version in 3 4; do
  say "version $version: the server's file system is full"
  fresh 64M
  serve_disk "$(nfs_uri "$version" disk.img)"
  for ((megabyte = 0; megabyte < 64; megabyte++)); do
    ask "2a00$(printf '%08x' $((megabyte * 2048)))00080000 out 1048576*5a"
    [[ $answer == good* ]] || break
  done
  [[ $answer == "check $full" ]] || fail "a full file system: $answer"
  done_well "${command[READ]}" "a read of a full file system"
  done_well "${command[WRITE]}" "what has its space is written again"
  end_disk
done

# nfs-ganesha lets version 4 go on.
say "version 3: the server takes the permission away"
fresh 4M
chown 4711:4711 "$work/export/disk.img"
serve_disk "$(nfs_uri 3 disk.img)&uid=4711&gid=4711"
done_well "${command[WRITE]}" "a write with permission"
chown root:root "$work/export/disk.img"
chmod 600 "$work/export/disk.img"
refused "${command[WRITE]}" "$protected" "a write without permission"
refused "${command[READ]}" "$unread" "a read without permission"
end_disk
stop_nfs
finish
