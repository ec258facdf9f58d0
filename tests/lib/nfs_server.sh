# shellcheck shell=bash
# What the NFS integration scripts share, after harness.sh: nfs-ganesha in the background.
#
#   in_own_network "$@"       first of all: the script runs again in a network of its own,
#                             with a /run and a portmapper of its own (version 3 wants one)
#   serve_nfs [PRELOAD]       until it answers; exports $work/export; $server is its process
#   stop_nfs                  kills it
#   nfs_uri VERSION FILE      of a file in $work/export

server='' epoch=1000

in_own_network() {
  [[ -z ${IN_OWN_NETWORK:-} ]] || return 0
  IN_OWN_NETWORK=yes exec unshare --net --mount --propagation slave --pid --fork --kill-child --mount-proc "$0" "$@"
}

nfs_uri() {
  case $1 in
    3) echo "nfs://127.0.0.1$work/export/$2?version=3" ;;
    4) echo "nfs://127.0.0.1/export/$2?version=4&nfsport=20490" ;;
  esac
}

nfs_answers() {
  rpcinfo -T tcp 127.0.0.1 100003 3 && rpcinfo -T tcp 127.0.0.1 100003 4 &&
    rpcinfo -T tcp 127.0.0.1 100005 3
} >/dev/null 2>&1

begin_nfs() {
  need ganesha.nfsd rpcbind ip
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
