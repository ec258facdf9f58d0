#!/bin/bash
# The examples of those manual pages that say that they need the lab.
set -euo pipefail
modprobe -a nbd fuse loop
exec "$(dirname "$0")/../integration/man_examples" "$(dirname "$0")/../.." "${TIDEPOOL_BUILD:?}"
