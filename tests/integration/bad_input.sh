#!/bin/bash
# What cannot be mounted is refused with a message of its own and exit 1; what was
# mistyped with exit 2.
source "$(dirname "$0")/../lib/harness.sh"

begin
failures=0
# refused WHAT STATUS PATTERN COMMAND...: exits so, says so, on standard error.
refused() {
  local what=$1 want=$2 pattern=$3 status=0
  shift 3
  timeout 20 "$@" >"$work/out" 2>"$work/err" || status=$?
  if [[ $status -ne $want ]]; then
    say "$what: exit $status, must be $want: $(cat "$work/err")"
    failures=$((failures + 1))
  elif ! grep -qiE -- "$pattern" "$work/err"; then
    say "$what: the message must match '$pattern': $(cat "$work/err")"
    failures=$((failures + 1))
  else
    say "$what: $(head -1 "$work/err")"
  fi
  if mountpoint -q "$mount" && [[ -z $daemon ]]; then
    umount "$mount"
    fail "$what: it was mounted all the same"
  fi
}

"$elasticctl" create "$work/good" --size 256M >/dev/null
: >"$work/empty"
head -c 64M /dev/urandom >"$work/random"
head -c 64M /dev/zero >"$work/zeros"
head -c 300 "$work/good" >"$work/short"
cp --sparse=always "$work/good" "$work/truncated"
truncate -s 100M "$work/truncated"

for opener in "mount" "info" "check"; do
  open=("$elasticctl" "$opener")
  args=()
  [[ $opener != mount ]] || { open=("$elasticfs") args=("$mount" -f); }
  refused "$opener, missing pool" 1 'no such file' "${open[@]}" "$work/none" "${args[@]}"
  refused "$opener, empty file" 1 "$work/empty.* is not a pool" "${open[@]}" "$work/empty" "${args[@]}"
  refused "$opener, random file" 1 "$work/random.* is not a pool" "${open[@]}" "$work/random" "${args[@]}"
  refused "$opener, zeros" 1 "$work/zeros.* is not a pool" "${open[@]}" "$work/zeros" "${args[@]}"
  refused "$opener, a directory" 1 "$work.*(directory|neither a )" "${open[@]}" "$work" "${args[@]}"
  refused "$opener, a piece of a pool" 1 "$work/short.* is not a pool" "${open[@]}" "$work/short" "${args[@]}"
  refused "$opener, cut short" 1 "$work/truncated.* cut short" \
    "${open[@]}" "$work/truncated" "${args[@]}"
  refused "$opener, a device that is none" 1 "/dev/null" "${open[@]}" /dev/null "${args[@]}"
done

refused "too small to create" 1 "small|least" "$elasticctl" create "$work/tiny" --size 64K
refused "create over a pool" 1 "already|exists" "$elasticctl" create "$work/good" --size 256M
refused "odd chunk size" 1 "chunk|power" "$elasticctl" create "$work/odd" --size 256M --chunk 100K

refused "no mount point" 1 "$work/nowhere" "$elasticfs" "$work/good" "$work/nowhere" -f
refused "mount point is a file" 1 "$work/empty" "$elasticfs" "$work/good" "$work/empty" -f

cp --sparse=always "$work/good" "$work/locked"
chattr +i "$work/locked" 2>/dev/null && {
  refused "pool that cannot be written" 1 "$work/locked" "$elasticfs" "$work/locked" "$mount" -f
  chattr -i "$work/locked"
}

# A second daemon, named after the first; and tools that would change the pool.
pool=$work/good
mount_pool
mkdir "$work/second"
refused "second daemon" 1 "$pool.* in use: it is mounted on $mount" \
  "$elasticfs" "$pool" "$work/second" -f
refused "create over a live pool" 1 "in use|busy|lock|mounted|already" \
  "$elasticctl" create "$pool" --size 256M --force
make_vm vm1
refused "VM that is not there" 1 "nobody" "$elasticctl" vm set "$mount" nobody --quota 1G
refused "reservation beyond the pool" 1 "reserv|space" "$elasticctl" vm set "$mount" vm1 --reserve 10G
refused "map of no disk" 1 "none.img" "$elasticctl" map "$mount/vm1/none.img"
unmount_pool

# Read-only: readable, and every change is refused by name.
mount_pool ro
status=0
touch "$mount/vm1/x" 2>"$work/err" || status=$?
[[ $status -ne 0 ]] && grep -q 'Read-only file system' "$work/err" ||
  fail "a read-only mount must refuse changes: $(cat "$work/err")"
unmount_pool

for program in "$elasticfs" "$elasticctl"; do
  name=$(basename "$program")
  refused "$name without arguments" 2 "usage|--help|required|POOL" "$program"
  refused "$name, unknown option" 2 "nonsense" "$program" --nonsense
  "$program" --help >"$work/out" 2>&1 || fail "$name --help must exit 0"
  grep -qi usage "$work/out" || fail "$name --help tells no usage"
done
refused "elasticfs, unknown mount option" 2 "nonsense" "$elasticfs" "$work/good" "$mount" -f -o nonsense
refused "elasticctl, unknown verb" 2 "nonsense" "$elasticctl" nonsense
refused "elasticctl, not a size" 2 "12Q" "$elasticctl" create "$work/x" --size 12Q

[[ $failures -eq 0 ]] || fail "$failures answers are wrong"
finish
