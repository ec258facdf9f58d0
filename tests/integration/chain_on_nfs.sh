#!/bin/bash
# A chain whose base is a file on the real nfs-ganesha, versions 3 and 4, while the server goes
# away and comes back. The judge is a flat file that is changed alike.
set -euo pipefail
source "$(dirname "$0")/../lib/nfs_server.sh"
source "$(dirname "$0")/../lib/nbd_server.sh"
begin_nfs "$@"
need nbdkit nbdinfo nbdsh nbdcopy qemu-img jq
need_space 512
export PATH=/usr/bin:$PATH COWCHAIN_RUN=$work/run
cowchain=$build/blockdev/tools/cowchain
base=$work/export/base.img uri="nbd+unix:///?socket=$work/socket"

expect_error() {  # expect_error TEXT COMMAND...
  local text=$1
  shift
  if "$@" >"$work/error.log" 2>&1; then fail "'$*' succeeded"; fi
  grep -q -- "$text" "$work/error.log" || fail "'$*' says: $(cat "$work/error.log")"
}
same() { qemu-img compare -q -f raw -F raw "$uri" "$1"; }

serve_chain() {  # serve_chain TOP
  serve_nbd "$uri" "$plugin" "$1"
  chain_server=$server
}
serve_base() {
  serve_nfs
  base_server=$server
}
stop_base() {
  server=$base_server
  stop_nfs
}

head -c 24M /dev/urandom >"$base"
truncate -s 60M "$base"
head -c 4M /dev/urandom >>"$base"
cp -p "$base" "$work/kept.img"
serve_base

for version in 3 4; do
  base_uri=$(nfs_uri $version base.img) top=$work/disk$version.layer flat=$work/flat$version.img
  cp --sparse=always "$base" "$flat"

  say "version $version: it takes the file's size and refers to it"
  "$cowchain" create "$top" --parent "$base_uri"
  "$cowchain" info --json "$top" | jq -e --arg uri "$base_uri" \
    '.size == 67108864 and .base.file == $uri and .base.size == 67108864' >/dev/null || fail "info"

  say "version $version: reads show the base, writes stay above it"
  serve_chain "$top"
  same "$flat" || fail "an empty layer over the file"
  nbdsh -u "$uri" -c "
import random
random.seed($version)
with open('$flat', 'r+b') as flat:
    for step in range(300):
        length = random.choice([1, 512, 4096, 5000, 65536])
        offset = random.randrange(h.get_size() - length)
        data = random.randbytes(length)
        h.pwrite(data, offset)
        flat.seek(offset)
        flat.write(data)
h.flush()
"
  same "$flat" || fail "after writes"
  cmp "$base" "$work/kept.img" || fail "the base was written to"

  say "version $version: reads stall while the base is away, and go on"
  stop_base
  nbdcopy "$uri" "$work/copy" >"$work/nbdcopy.log" 2>&1 &
  reader=$!
  children+=("$reader")
  sleep 1
  kill -0 "$reader" 2>/dev/null || fail "a read without the base ended: $(cat "$work/nbdcopy.log")"
  serve_base
  wait "$reader" || fail "a stalled read: $(cat "$work/nbdcopy.log")"
  cmp "$work/copy" "$flat" || fail "the copy over a restart"
  stop_nbd "$chain_server"
done

say "a base that is not the one that was meant is refused by name"
for version in 3 4; do
  base_uri=$(nfs_uri $version base.img) top=$work/disk$version.layer
  mv "$base" "$base.away"
  expect_error "layer '$top': its parent '$base_uri' is missing" "$cowchain" info "$top"
  expect_error "cannot open '$base_uri': no such file" "$cowchain" create "$work/x.layer" --base "$base_uri"
  [[ ! -e $work/x.layer ]] || fail "a refused layer was left behind"
  head -c 64M /dev/urandom >"$base"  # another one, of the same size
  expect_error "'$base_uri' is not the parent it was made on: it was written to since" \
    "$cowchain" info "$top"
  truncate -s 60M "$base"
  expect_error "'$base_uri' is not the parent it was made on: its size was changed since" \
    "$cowchain" info "$top"
  mv "$base.away" "$base"
  "$cowchain" info "$top" >/dev/null || fail "the base is back"
done
touch "$base"
expect_error "it was written to since" "$cowchain" info "$work/disk3.layer"
expect_error "it was written to since" "$cowchain" info "$work/disk4.layer"

say "refusals name what is wrong"
stop_base
for version in 3 4; do
  base_uri=$(nfs_uri $version base.img)
  expect_error "cannot connect to '$base_uri'" "$cowchain" info "$work/disk$version.layer"
  expect_error "cannot connect to '$base_uri'" "$cowchain" create "$work/x.layer" --base "$base_uri"
done
finish
