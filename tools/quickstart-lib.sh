# shellcheck shell=bash
# What ./quickstart and its --vm share: words for what happens, the build, the text that is
# sorted. The caller sets $work, where big files go, and $out, where logs stay.
readonly MIB=$((1024 * 1024))

die() {
  echo "quickstart: $*" >&2
  exit 1
}
step() { printf '[%3d s] %s\n' $SECONDS "$*"; }
since() { echo "$1 $EPOCHREALTIME" | awk '{ printf "%.1f", $2 - $1 }'; }

need_space() {  # need_space MIB
  local free_mib
  free_mib=$(df --output=avail -m "$work" | tail -1)
  [[ $free_mib -ge $1 ]] ||
    die "$work has $free_mib MiB free, $1 are needed: set TMPDIR to a roomier place"
}

build() {  # build TARGET...: those targets of build/
  if [[ ! -f build/build.ninja ]]; then
    CC="ccache gcc" CXX="ccache g++" meson setup build >"$out/build.log"
  fi
  ninja -C build "$@" >>"$out/build.log" || {
    tail -40 "$out/build.log" >&2
    die "the build failed"
  }
}

# Sources and documents of the installed packages, once through.
collect_text() {
  find /usr/include /usr/share/doc /usr/share/perl /usr/share/man /usr/lib/python3 \
    /usr/lib/python3.11 -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.txt' -o -name '*.p[lmy]' \
    -o -name '*.pod' -o -name copyright -o -name '*.gz' -o -path '/usr/include/c++/*' \) -print0 |
    sort -z | xargs -0 zcat -f | tr -d '\0' >"$work/text.all"
  local size
  size=$(stat -c %s "$work/text.all")
  [[ $size -ge $((32 * MIB)) ]] || die "found only $((size / MIB)) MiB of text under /usr"
}

# make_text FILE MIB SEED: repeats the text to that size, each line with a number in front
# that comes from a generator of full period: all lines differ, in no useful order.
make_text() {
  # Forty times the least text that is accepted is more than any VM sorts.
  local copies=()
  while [[ ${#copies[@]} -lt 40 ]]; do copies+=("$work/text.all"); done
  LC_ALL=C awk -v number="$3" -v limit=$(($2 * MIB)) '
    {
      number = (number * 69069 + 12345) % 4294967296
      printf "%010.0f %s\n", number, $0
      written += length($0) + 12
      if (written >= limit) exit
    }' "${copies[@]}" >"$1"
}

# --- for a VM: $work/text is sorted here, and by tools/quickstart-vm-job in the guest ---

# An eighth of the text at a time, so that most of it is spilled.
sort_options() { echo "-S $(($(stat -c %s "$work/text") / 8 / 1024))K --parallel=1"; }

sort_on_host() {  # leaves its seconds and the output's SHA-256 in $work/expected
  local begin=$EPOCHREALTIME seconds sum
  mkdir "$work/spill"
  # shellcheck disable=SC2046  # these are words
  LC_ALL=C sort $(sort_options) -T "$work/spill" -o "$work/sorted" "$work/text"
  seconds=$(since "$begin")
  sum=$(sha256sum "$work/sorted")
  echo "$seconds ${sum%% *}" >"$work/expected"
  rm -r "$work/spill" "$work/sorted"
}

# check_vm_answer FILE: the job's figures; each line printed is one that is not as it should be.
# shellcheck disable=SC2154  # they are set by the file
check_vm_answer() (
  bad=0
  wrong() { echo "NOT AS IT SHOULD BE: $*"; bad=1; }
  source "$1"
  [[ $sum == "$expected" ]] || wrong "the guest's output is not the host's"
  [[ $((full - booted)) -ge $text_bytes ]] || wrong "the pool did not hold the sorted text"
  [[ $((used - booted)) -le $(((full - booted) / 4)) ]] || wrong "the space did not come back to the pool"
  [[ $((host - booted)) -le $(((full - booted) / 4)) ]] || wrong "the space did not come back to the host"
  [[ $off == yes ]] || wrong "the guest did not turn itself off"
  exit $bad
)
