# shellcheck shell=bash
# What the NBD integration scripts share, after harness.sh: nbdkit in the background.
#
#   serve_nbd URI ARGUMENT...   until it answers; $server is its process
#   stop_nbd PID                kills it
#   $plugin                     the cowchain plugin

plugin=$build/blockdev/nbdkit/nbdkit-cowchain-plugin.so
server=''
# The plugin, when it was built with a sanitizer, needs its runtime in nbdkit, too.
sanitizer_runtime=$(ldd "$plugin" | awk '/lib[at]san/ { print $3 }')

nbdkit_with_runtime() {
  [[ " $* " != *" $plugin "* ]] || export LD_PRELOAD=$sanitizer_runtime ASAN_OPTIONS=detect_leaks=0
  exec nbdkit "$@"
}
nbd_answers() { nbdinfo --size "$1" >/dev/null 2>&1; }

# The URI is one of a Unix socket. What a killed server had locked may be free a moment
# later only: the kernel ends its io_uring in its own time.
serve_nbd() {
  local uri=$1 socket=${1##*socket=} tries
  socket=${socket%%&*}
  shift
  for ((tries = 0; tries < 50; tries++)); do
    rm -f "$socket"
    nbdkit_with_runtime -f -U "$socket" "$@" 2>>"$work/daemon.log" &
    server=$!
    children+=("$server")
    until nbd_answers "$uri"; do
      kill -0 "$server" 2>/dev/null || break
      sleep 0.02
    done
    ! nbd_answers "$uri" || return 0
    stop_nbd "$server"
    sleep 0.1
  done
  fail "nbdkit: $(tail -n 3 "$work/daemon.log")"
}

stop_nbd() {
  local entry kept=()
  kill -9 "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  for entry in "${children[@]}"; do [[ $entry == "$1" ]] || kept+=("$entry"); done
  children=("${kept[@]}")
}
