# shellcheck shell=bash
# What the NFS integration scripts share: harness.sh, and nfs-ganesha in the background.
#
#   begin_nfs "$@"            first of all: the script runs again in a network of its own, with a
#                             /run and a portmapper of its own (version 3 wants one), and begins
#   serve_nfs [PRELOAD]       until it answers; exports $work/export; $server is its process
#   stop_nfs                  kills it
#   nfs_uri VERSION FILE      of a file in $work/export
#   start_proxy [OPTION...]   lib/nfs_proxy.py before the server; end_proxy: until all is through
#   proxy_uri VERSION FILE    as nfs_uri, by way of the proxy
#   add_host NAME             a host of its own (a network namespace) with a cable to the server's
#                             network; nfs_uri names the server by $nfs_host from then on
#   on_host NAME COMMAND...   in the background only: it takes the place of the shell
#   cut_cable NAME, join_cable NAME

source "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

server='' epoch=1000 proxy='' nfs_host=127.0.0.1
declare -A hosts=()

in_own_network() {
  [[ -z ${IN_OWN_NETWORK:-} ]] || return 0
  IN_OWN_NETWORK=yes exec unshare --net --mount --propagation slave --pid --fork --kill-child --mount-proc "$0" "$@"
}

nfs_uri() {
  case $1 in
    3) echo "nfs://$nfs_host$work/export/$2?version=3" ;;
    4) echo "nfs://$nfs_host/export/$2?version=4&nfsport=20490" ;;
  esac
}
proxy_uri() {
  case $1 in
    3) echo "$(nfs_uri 3 "$2")&nfsport=20495" ;;
    4) echo "nfs://127.0.0.1/export/$2?version=4&nfsport=20495" ;;
  esac
}

nfs_answers() {
  rpcinfo -T tcp 127.0.0.1 100003 3 && rpcinfo -T tcp 127.0.0.1 100003 4 &&
    rpcinfo -T tcp 127.0.0.1 100005 3
} >/dev/null 2>&1

begin_nfs() {
  in_own_network "$@"
  begin
  need ganesha.nfsd rpcbind ip
  export PATH=/usr/bin:$PATH
  # A copy of another's pool, kept here, would keep its daemon from ending.
  umount --lazy --all --types fuse.elasticfs
  ip link set lo up
  mount -t tmpfs tmpfs /run  # ours alone, gone with the namespace
  mkdir -p /run/rpcbind "$work/export" "$work/recovery"
  rpcbind -w
  cat >"$work/ganesha.conf" <<EOF
NFS_CORE_PARAM {
  NFS_Port = 20490; MNT_Port = 20491; Protocols = 3, 4; Enable_NLM = false; Enable_RQUOTA = false;
  Plugins_Dir = "/usr/lib/x86_64-linux-gnu/ganesha";
}
NFSV4 { Graceless = true; RecoveryBackend = fs; }
EXPORT {
  Export_Id = 1; Path = $work/export; Pseudo = /export; Access_Type = RW; Squash = None;
  Protocols = 3, 4; Transports = TCP; SecType = sys; FSAL { Name = VFS; }
  Attr_Expiration_Time = 0;  # tests change files behind the server's back
}
LOG { Default_Log_Level = EVENT; }
EOF
}

# Each start has an epoch of its own, as one a second later has: it is the write verifier.
serve_nfs() {
  epoch=$((epoch + 1))
  LD_PRELOAD=${1:-} ganesha.nfsd -F -L "$work/daemon.log" -f "$work/ganesha.conf" \
    -p "$work/ganesha.pid" -E "$epoch" &
  server=$!
  children+=("$server")
  wait_until 60 nfs_answers || fail "nfs-ganesha: $(tail -n 3 "$work/daemon.log")"
}

stop_nfs() {
  local entry kept=()
  kill -9 "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  for entry in "${children[@]}"; do [[ $entry == "$server" ]] || kept+=("$entry"); done
  children=("${kept[@]}")
}

add_host() {
  local name=$1 number=$((${#hosts[@]} + 1)) server_side=to-$1
  nfs_host=10.77.0.1
  [[ $number -gt 1 ]] || ip address add "$nfs_host/32" dev lo
  unshare --net bash -c ': >"$0"; exec sleep infinity' "$work/$name.left" &
  hosts[$name]=$!
  children+=($!)
  # Until it has left our network.
  wait_until 60 test -e "$work/$name.left" || fail "no network for host $name"
  ip link add "$server_side" type veth peer name cable netns "$!"
  ip address add "10.77.$number.1/24" dev "$server_side"
  ip link set "$server_side" up
  (on_host "$name" ip link set lo up)
  (on_host "$name" ip address add "10.77.$number.2/24" dev cable)
  (on_host "$name" ip link set cable up)
  (on_host "$name" ip route add "$nfs_host" via "10.77.$number.1")
}
on_host() {
  local name=$1
  shift
  exec nsenter --target "${hosts[$name]}" --net -- "$@"
}
cut_cable() { ip link set "to-$1" down; }
join_cable() { ip link set "to-$1" up; }

start_proxy() {
  rm -f "$work/proxy.log"
  python3 "$(dirname "${BASH_SOURCE[0]}")/nfs_proxy.py" --listen 20495 --server 20490 "$@" \
    >"$work/proxy.log" 2>&1 &
  proxy=$!
  children+=("$proxy")
  wait_until 60 grep -qs ready "$work/proxy.log" || fail "the proxy: $(cat "$work/proxy.log")"
}
end_proxy() {
  kill "$proxy"
  wait "$proxy" || fail "the proxy: $(cat "$work/proxy.log")"
}
