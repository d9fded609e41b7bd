# Redis (or Valkey) on free ports of loopback, in memory alone, with everything it writes in the
# directory that is the first argument. The second says what: single, cluster (three nodes) or
# sentinel (a primary and one sentinel); a third is the port to use. Says the port of the first
# node, or of the sentinel; ends, and removes the directory, when its standard input does.
set -eu
cd "$1"
kind=$2
program=$(command -v redis-server || command -v valkey-server)
client=$(command -v redis-cli || command -v valkey-cli)
pids=()
trap 'kill -9 "${pids[@]}" 2>/dev/null || true; rm -rf "$1"' EXIT

free() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start PORT [OPTION...]: returns when it answers.
start() {
  local port=$1
  shift
  "$program" --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$PWD" "$@" \
    >>out 2>&1 </dev/null &
  pids+=($!)
  answers "$port"
}

answers() {
  for _ in $(seq 600); do
    [ "$("$client" -p "$1" ping 2>/dev/null)" = PONG ] && return
    kill -0 "${pids[-1]}" || exit 1
    sleep 0.05
  done
  exit 1
}

case $kind in
single)
  port=${3:-$(free)}
  start "$port"
  ;;
cluster)
  ports=("$(free)" "$(free)" "$(free)")
  first=0
  for at in 0 1 2; do
    start "${ports[at]}" --cluster-enabled yes --cluster-port "$(free)" \
      --cluster-config-file "nodes-$at.conf"
    last=$(((at + 1) * 16384 / 3 - 1))
    "$client" -p "${ports[at]}" cluster addslotsrange "$first" "$last" >>out
    first=$((last + 1))
  done
  bus() { "$client" -p "$1" config get cluster-port | tail -1; }
  for at in 1 2; do
    "$client" -p "${ports[0]}" cluster meet 127.0.0.1 "${ports[at]}" "$(bus "${ports[at]}")" >>out
  done
  for port in "${ports[@]}"; do
    for _ in $(seq 600); do
      "$client" -p "$port" cluster info | grep -q 'cluster_state:ok' &&
        "$client" -p "$port" cluster info | grep -q 'cluster_known_nodes:3' && break
      sleep 0.05
    done
  done
  port=${ports[0]}
  ;;
sentinel)
  primary=$(free)
  start "$primary"
  port=$(free)
  printf 'sentinel monitor main 127.0.0.1 %s 1\n' "$primary" >sentinel.conf
  "$program" sentinel.conf --sentinel --bind 127.0.0.1 --port "$port" --dir "$PWD" \
    >>out 2>&1 </dev/null &
  pids+=($!)
  answers "$port"
  ;;
esac
echo "$port"
cat >/dev/null
