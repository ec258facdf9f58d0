# What the benchmarks share: rows with a promise, pairs of runs, the table.
#
# Sourced after lib/harness.sh; wants $json, $pairs and $only (an array), and begin
# to have made $work.
results=$work/results.jsonl
: >"$results"

wanted() {  # wanted PART: is it among those asked for?
  [[ ${#only[@]} -eq 0 ]] && return 0
  local name
  for name in "${only[@]}"; do [[ $name == "$1" ]] && return 0; done
  return 1
}
progress() { [[ ! -t 2 ]] || printf '\r\033[K%s' "$*" >&2; }

# row NAME UNIT OURS PEER RATIO PROMISE: PROMISE is ">=0.75", "<=1.3", "<50" or ""
# and stands for the ratio, or for OURS where there is no peer (null).
row() {
  jq -cn --arg name "$1" --arg unit "$2" --argjson ours "$3" --argjson peer "$4" \
    --argjson ratio "$5" --arg promise "$6" '
    def kept: ($promise | capture("^(?<op><=|>=|<)(?<limit>[0-9.]+)$")) as $p
      | (if $ratio == null then $ours else $ratio end) as $value | ($p.limit | tonumber) as $limit
      | if $p.op == ">=" then $value >= $limit elif $p.op == "<=" then $value <= $limit
        else $value < $limit end;
    {name: $name, unit: $unit, ours: $ours, peer: $peer, ratio: $ratio, promise: $promise,
     kept: (if $promise == "" then null else kept end)}' >>"$results"
  progress "$(tail -1 "$results" | jq -r '"\(.name): \(.ratio // .ours)"')"
}

median() { jq -s 'sort | .[(length - 1) / 2 | floor]'; }

# in_pairs NAME UNIT PROMISE OURS PEER COMMAND ARGUMENT...: COMMAND OURS ARGUMENT... and
# the same with PEER print a figure each; who goes first changes with each pair.
in_pairs() {
  local name=$1 unit=$2 promise=$3 ours=$4 peer=$5 command=$6 pair a b
  shift 6
  : >"$work/pairs.ours"; : >"$work/pairs.peer"; : >"$work/pairs.ratio"
  # Not counted: below this machine there may be another one's cache to warm.
  "$command" "$ours" "$@" >/dev/null
  "$command" "$peer" "$@" >/dev/null
  for ((pair = 0; pair < pairs; pair++)); do
    if [[ $((pair % 2)) -eq 0 ]]; then
      a=$("$command" "$ours" "$@") b=$("$command" "$peer" "$@")
    else
      b=$("$command" "$peer" "$@") a=$("$command" "$ours" "$@")
    fi
    echo "$a" >>"$work/pairs.ours"
    echo "$b" >>"$work/pairs.peer"
    jq -n "$a / $b" >>"$work/pairs.ratio"
  done
  row "$name" "$unit" "$(median <"$work/pairs.ours")" "$(median <"$work/pairs.peer")" \
    "$(median <"$work/pairs.ratio")" "$promise"
}

# print_rows OURS WHAT: the end of a benchmark; fails where a promise was missed.
print_rows() {
  progress ""
  if $json; then
    cat "$results"
  else
    # Whoever else works on the machine is in the figures.
    say "$(nproc) CPUs (load at the end $(cut -d' ' -f1 /proc/loadavg)), kernel $(uname -r)," \
      "$(findmnt -n -o FSTYPE -T "$work") in $base, $2, $pairs pairs"
    jq -r 'def figure: if . == null then "-" elif . >= 1e6 then "\(. / 1e5 | round / 10) M"
          elif . >= 1e4 then "\(. / 100 | round / 10) k" else "\(. * 100 | round / 100)" end;
        [.name, (.ours | figure) + (if .unit == "count" then "" else " " + .unit end), (.peer | figure),
         (if .ratio == null then "-" else "\(.ratio * 100 | round / 100)" end),
         (if .promise == "" then "-" else .promise end),
         (if .kept == null then "-" elif .kept then "ok" else "MISSED" end)] | @tsv' "$results" |
      column -t -s $'\t' -N "what,$1,peer,ratio,promise,verdict" -R "$1,peer,ratio"
  fi
  local missed
  missed=$(jq -s 'map(select(.kept == false)) | length' "$results")
  ended=yes
  [[ $missed -eq 0 ]] || { say "$missed of the promises are missed" >&2; exit 1; }
}
