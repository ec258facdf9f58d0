#!/bin/bash
# The job of ./quickstart --vm, with little text: the guest sorts it as the lab's own sort does,
# and the pool has its space back. The twins: with what the pool held before the guest trimmed,
# with another output, with no word that it turned itself off, the judge says so.
set -euo pipefail
tools=$(realpath "$(dirname "$0")/../../tools")
source "$tools/quickstart-lib.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export QUICKSTART_VM=$work

cat "$tools"/../*.md "$tools"/../man/*.[158] "$tools"/../vmm/*/*.cpp >"$work/text.all"
make_text "$work/text" 8 1
sort_on_host
"$tools/quickstart-vm-job" || die "FAILED"

twin() {  # twin COMMANDS WORDS: the figures after the commands are found wrong
  { cat "$work/answer" && echo "$1"; } >"$work/twin"
  ! check_vm_answer "$work/twin" >"$work/said" || die "FAILED: unseen: $1"
  grep -q "$2" "$work/said" || die "FAILED: $(cat "$work/said")"
}
twin 'used=$deleted' "did not come back to the pool"
twin 'host=$deleted' "did not come back to the host"
twin 'sum=${sum/[0-7]/8}' "output is not the host's"
twin 'full=$booted' "did not hold"
twin 'off=no' "did not turn itself off"
echo "passed in $SECONDS s"
