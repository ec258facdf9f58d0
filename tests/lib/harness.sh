# shellcheck shell=bash
# What the integration scripts share: a pool in a temporary directory, its mount,
# loop devices on its disks, and a clean-up that judges.
#
#   source "$(dirname "$0")/../lib/harness.sh"
#   begin                    a work directory ($work); clean-up at exit
#   create_pool 1G           $pool
#   mount_pool               $mount; the daemon runs in the foreground as $daemon
#   make_disk vm1/a.img 1G   $disk: a thin disk in the VM's directory
#   attach "$disk"           $loop
#   unmount_pool; check_clean
#   finish
#
# Leaving anything behind is a failure: an unmount that fails, a daemon that does
# not end or ends with an error, a loop device that stays. A test that lacks
# something exits 77 and says what.
#
# TIDEPOOL_BUILD names the build directory (meson sets it), TIDEPOOL_WORK where
# the big files go (default: $TMPDIR or /tmp; it needs O_DIRECT and hole punching).
set -euo pipefail

build=${TIDEPOOL_BUILD:?names the build directory}
elasticfs=$build/fs/fuse/elasticfs
elasticctl=$build/fs/tools/elasticctl

work='' pool='' mount='' daemon='' loop='' disk='' vm='' ended='' fuse_options=''
loops=() mounts=() children=()

say() { printf '%s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}
skip() {
  printf 'skipped: %s\n' "$*"
  exit 77
}

# need COMMAND...: skips without them.
need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || skip "$command is not installed"
  done
}

begin() {
  [[ $EUID -eq 0 ]] || skip "mounting needs root"
  [[ -c /dev/fuse ]] || skip "no /dev/fuse"
  [[ -x $elasticfs ]] || fail "$elasticfs is not built"
  [[ -x $elasticctl ]] || fail "$elasticctl is not built"
  work=$(mktemp -d "${TIDEPOOL_WORK:-${TMPDIR:-/tmp}}/tidepool-$(basename "$0" .sh).XXXXXX")
  chmod 755 "$work"
  pool=$work/pool mount=$work/mnt
  mkdir "$mount"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# Marks the regular end: from here on a clean-up in trouble is what fails.
finish() {
  ended=yes
  say "${1:-passed}"
}

clean_up() {
  local status=$? trouble='' entry
  trap - EXIT
  set +e
  [[ $status -ne 0 || -n $ended ]] || { trouble="the script ended before finish"; }
  # All first, as one may wait for another; those that were stopped, too.
  for entry in "${children[@]}"; do kill "$entry" && kill -CONT "$entry"; done 2>/dev/null
  for entry in "${children[@]}"; do wait "$entry" 2>/dev/null; done
  if [[ $status -ne 0 && $status -ne 77 && -s $work/daemon.log ]]; then
    echo "--- end of the daemon's log" >&2
    tail -n 40 "$work/daemon.log" >&2
  fi
  local i
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
    umount "${mounts[i]}" || { trouble="cannot unmount ${mounts[i]}"; umount -l "${mounts[i]}"; }
  done
  for entry in "${loops[@]}"; do
    losetup -d "$entry" || trouble="cannot detach $entry"
  done
  if [[ -n $daemon ]]; then
    (unmount_pool) || {
      trouble="cannot end the daemon"
      umount -l "$mount" 2>/dev/null
      kill -9 "$daemon" 2>/dev/null
      wait "$daemon" 2>/dev/null
    }
  fi
  if mountpoint -q "$mount" || ! stat "$mount" >/dev/null 2>&1; then
    trouble="$mount is still mounted"
    umount -l "$mount"
  fi
  if [[ -n ${KEEP:-} && $status -ne 0 ]]; then
    echo "kept: $work" >&2
  else
    rm -rf --one-file-system "$work"
  fi
  [[ -z $trouble ]] || echo "clean-up: $trouble" >&2
  [[ $status -ne 0 || -z $trouble ]] || status=1
  exit "$status"
}

# wait_until SECONDS COMMAND...: until the command succeeds.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [[ $SECONDS -lt $end ]] || return 1
    sleep 0.05
  done
}

create_pool() {  # create_pool SIZE [OPTION...]
  local size=$1
  shift
  "$elasticctl" create "$pool" --size "$size" "$@" >"$work/create.log" ||
    fail "elasticctl create: $(cat "$work/create.log")"
}

mount_pool() {  # mount_pool [EXTRA-MOUNT-OPTIONS]
  fuse_options=allow_other${1:+,$1}
  "$elasticfs" "$pool" "$mount" -f -o "$fuse_options" >>"$work/daemon.log" 2>&1 &
  daemon=$!
  wait_until 60 mount_settled || fail "the pool was not mounted within a minute"
  mountpoint -q "$mount" || {
    daemon=
    cat "$work/daemon.log" >&2
    fail "elasticfs ended instead of mounting"
  }
}
mount_settled() { mountpoint -q "$mount" || ! kill -0 "$daemon" 2>/dev/null; }

# Ends the daemon the regular way; it must exit 0.
unmount_pool() {
  local status=0
  umount "$mount" || fail "umount $mount"
  wait_until "${1:-120}" daemon_ended || fail "the daemon (pid $daemon) did not end"
  # Not our child in the clean-up's subshell: then its end is all that is known.
  wait "$daemon" 2>/dev/null || status=$?
  daemon=
  [[ $status -eq 0 || $status -eq 127 ]] || fail "the daemon ended with status $status"
}
daemon_ended() {
  local state
  state=$(ps -o stat= -p "$daemon") || return 0
  [[ $state == Z* ]]
}

# As a crash of the daemon: no warning, the mount goes dead (ENOTCONN). Those who
# use it are to be waited for before drop_dead_mount.
kill_daemon() {
  kill -9 "$daemon"
  wait "$daemon" 2>/dev/null || true
  daemon=
}
drop_dead_mount() { umount "$mount" || fail "a dead mount stays in use"; }

# without_dead_mounts COMMAND...: for commands that look at every mount of the machine (those
# of btrfs) and fail where somebody's FUSE daemon has died. Such mounts leave the command's
# own view only.
without_dead_mounts() {
  unshare --mount --propagation private bash -c '
    findmnt --noheadings --list --output TARGET --direction backward | while read -r target; do
      [[ $(stat "$target" 2>&1 >/dev/null) != *"not connected"* ]] || umount --lazy "$target"
    done
    exec "$@"' without_dead_mounts "$@"
}

make_vm() {  # make_vm NAME [elasticctl vm set OPTION...]; sets $vm
  local name=$1
  shift
  vm=$mount/$name
  [[ -d $vm ]] || mkdir "$vm"
  [[ $# -eq 0 ]] || "$elasticctl" vm set "$mount" "$name" "$@" >/dev/null ||
    fail "elasticctl vm set $name $*"
}

make_disk() {  # make_disk VM/NAME SIZE; sets $disk
  make_vm "${1%%/*}"
  disk=$mount/$1
  truncate -s "$2" "$disk" || fail "cannot make $1"
}

# attach FILE [losetup OPTION...]: sets $loop.
attach() {
  local file=$1 try number
  shift
  for try in 1 2 3 4 5; do
    # A container may lack the nodes of devices that the kernel offers.
    number=$(losetup -f) || skip "no loop devices"
    [[ -b $number ]] || mknod "$number" b 7 "${number#/dev/loop}"
    if loop=$(losetup --find --show "$@" "$file"); then
      loops+=("$loop")
      return
    fi
    sleep 0.2
  done
  fail "cannot attach $file to a loop device"
}

detach() {  # detach LOOP
  local kept=() entry
  losetup -d "$1" || fail "cannot detach $1"
  for entry in "${loops[@]}"; do [[ $entry == "$1" ]] || kept+=("$entry"); done
  loops=("${kept[@]}")
  # The kernel lets go of the file a moment later.
  wait_until 10 loop_free "$1" || fail "$1 stays attached"
}
loop_free() { ! losetup "$1" >/dev/null 2>&1; }

mount_on() {  # mount_on DIRECTORY MOUNT-ARGUMENT...
  local where=$1
  shift
  mkdir -p "$where"
  mount "$@" "$where" || fail "mount $* $where"
  mounts+=("$where")
}

unmount_from() {  # unmount_from DIRECTORY
  local kept=() entry
  umount "$1" || fail "umount $1"
  for entry in "${mounts[@]}"; do [[ $entry == "$1" ]] || kept+=("$entry"); done
  mounts=("${kept[@]}")
}

# figure KEY: a figure of the live pool.
figure() { "$elasticctl" stat --json "$mount" | jq -e ".$1"; }
host_bytes() { echo $(($(stat -c %b "$pool") * 512)); }

# The offline pool must be without fault.
check_clean() {
  "$elasticctl" check "$pool" >"$work/check.log" 2>&1 || {
    cat "$work/check.log" >&2
    fail "elasticctl check finds faults"
  }
}

# Largest used size of the test: free space for it, or skip.
need_space() {  # need_space SIZE-IN-MIB
  local free
  free=$(df --output=avail -m "$work" | tail -1)
  [[ $free -ge $1 ]] || skip "needs $1 MiB in $work, $free are free"
}

# The seed of a run: --seed N or SEED=, else from the clock; printed to be replayed.
choose_seed() {
  seed=${SEED:-$((RANDOM * 32768 + RANDOM + 1))}
  say "seed $seed (replay: SEED=$seed $0)"
  RANDOM=$((seed % 32768))
}
