#!/usr/bin/env bash
# The demo: the control plane and a real Envoy with the filter, until Ctrl-C.
#
#   127.0.0.1:8088   the control plane, data in .ipwarden/
#   127.0.0.1:10000  the site behind the filter; :10001 its upstream
#   127.0.0.1:9901   Envoy's admin interface
set -euo pipefail
cd "$(dirname "$0")/.."
# envoy.yaml names the module by its path from here.
export CARGO_TARGET_DIR="$PWD/target"

DATA_DIR=.ipwarden
SERVICE=target/release/ipwarden
PATIENCE_SECONDS=30

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# status PORT PATH: prints the status of a GET, nothing when there is no answer.
status() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' "$2" >&3
    read -r -t 2 _ code _ <&3
    printf '%s' "$code"
  ) 2>/dev/null || true
}

# wait_until NAME PID LOG PORT PATH: polls until the path answers 200.
wait_until() {
  local name=$1 pid=$2 log=$3 port=$4 path=$5 give_up=$((SECONDS + PATIENCE_SECONDS))
  until [ "$(status "$port" "$path")" = 200 ]; do
    if ! kill -0 "$pid" 2>/dev/null; then
      tail -n 20 "$log" >&2
      fail "$name ended at once; its last lines are above, all of them in $log"
    fi
    if [ "$SECONDS" -ge "$give_up" ]; then
      tail -n 20 "$log" >&2
      fail "$name did not get ready within $PATIENCE_SECONDS s; its last lines are above"
    fi
    sleep 0.1
  done
}

# end PID: asks it to stop, and insists after ten seconds.
# shellcheck disable=SC2317  # stop runs it
end() {
  [ -n "$1" ] || return 0
  kill -TERM "$1" 2>/dev/null || return 0
  local give_up=$((SECONDS + 10))
  while kill -0 "$1" 2>/dev/null; do
    if [ "$SECONDS" -ge "$give_up" ]; then kill -KILL "$1" 2>/dev/null || true; fi
    sleep 0.1
  done
}

service_pid=
envoy_pid=
geo_pid=
geo_watcher=
# shellcheck disable=SC2317  # the trap below runs it
stop() {
  trap '' INT TERM
  end "$geo_watcher"
  end "$geo_pid"
  # Envoy first: its workers hand over their last records while the service still listens.
  end "$envoy_pid"
  end "$service_pid"
}

# Before the build, which takes minutes.
for port in 8088 9901 10000 10001; do
  if port_is_open "$port"; then
    fail "port $port is taken" \
      "the demo needs 127.0.0.1 ports 8088, 9901, 10000 and 10001; is another 'make run' running?" \
      "to see who has it: ss -ltnp 'sport = :$port'"
  fi
done

.ci/tools wasi envoy
make --no-print-directory build

trap stop EXIT
trap 'printf "\nstopping\n"; exit 0' INT TERM

[ -d "$DATA_DIR" ] || mkdir -m 700 "$DATA_DIR"
# Each in a process group of its own (set -m): Ctrl-C must reach this script alone, which
# then stops them in order.
set -m
"$SERVICE" serve --data-dir "$DATA_DIR" --envoy-admin http://127.0.0.1:9901 \
  >"$DATA_DIR/service.log" 2>&1 </dev/null &
service_pid=$!
wait_until "the control plane" "$service_pid" "$DATA_DIR/service.log" 8088 /readyz

# Once, and beside everything else: it downloads some 70 MB, and the demo needs none of it.
# The service takes the data into use by itself.
if compgen -G "$DATA_DIR/geo/*.mmdb" >/dev/null; then
  geography="in $DATA_DIR/geo; bring it up to date with: ipwarden geo update"
else
  geography="on its way, see $DATA_DIR/geo-update.log; until it is there records carry no place"
  "$SERVICE" geo update --city --data-dir "$DATA_DIR" >"$DATA_DIR/geo-update.log" 2>&1 </dev/null &
  geo_pid=$!
fi

# For Envoy alone: the command line would take it for an operator's token.
IPWARDEN_TOKEN=$(cat "$DATA_DIR/proxy.token") \
  .tools/envoy/bin/envoy -c envoy/envoy.yaml --concurrency 2 --log-level warn \
  >"$DATA_DIR/envoy.log" 2>&1 </dev/null &
envoy_pid=$!
set +m
wait_until "Envoy" "$envoy_pid" "$DATA_DIR/envoy.log" 9901 /ready
wait_until "the site" "$envoy_pid" "$DATA_DIR/envoy.log" 10000 /

cat <<TEXT

The site is at http://localhost:10000/, the control plane at http://localhost:8088/.
In another terminal, put the ipwarden command on your path and try:

  export PATH="$PWD/target/release:\$PATH"
  cd "$PWD"

  curl -H 'x-forwarded-for: 203.0.113.7' localhost:10000/
  ipwarden block 203.0.113.0/24 --for 1h --reason scraping
  curl -i -H 'x-forwarded-for: 203.0.113.7' localhost:10000/
  ipwarden check 203.0.113.7
  ipwarden requests --ip 203.0.113.7
  ipwarden unblock 203.0.113.0/24
  ipwarden geo 81.2.69.160

Geography: $geography.
Logs: $DATA_DIR/service.log, $DATA_DIR/envoy.log. Ctrl-C stops both.
TEXT

# Says how the geography went, whenever that is.
if [ -n "$geo_pid" ]; then
  (
    while kill -0 "$geo_pid" 2>/dev/null; do sleep 1; done
    if compgen -G "$DATA_DIR/geo/*.mmdb" >/dev/null; then
      printf '\nGeography has arrived: ipwarden geo databases. City data: IP Geolocation by DB-IP <https://db-ip.com>.\n'
    else
      printf '\nThe demo goes on without geography: %s\n' "$(tail -n 1 "$DATA_DIR/geo-update.log")"
    fi
  ) &
  geo_watcher=$!
fi

# Ends when either of them does; with Ctrl-C the trap ends the script.
rc=0
wait -n "$service_pid" "$envoy_pid" || rc=$?
if kill -0 "$service_pid" 2>/dev/null; then
  tail -n 20 "$DATA_DIR/envoy.log" >&2
  fail "Envoy ended (status $rc); its last lines are above, all of them in $DATA_DIR/envoy.log"
fi
tail -n 20 "$DATA_DIR/service.log" >&2
fail "the control plane ended (status $rc); its last lines are above, all of them in $DATA_DIR/service.log"
