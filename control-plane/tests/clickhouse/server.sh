# Debian's clickhouse-server on a free port of loopback, with everything it writes in the
# directory that is its first argument. Says the port; ends, and removes the directory, when its
# standard input does.
set -eu
cd "$1"
port=${2:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
cat >config.xml <<XML
<yandex>
  <logger><level>warning</level><log>$1/log</log><errorlog>$1/errors</errorlog></logger>
  <http_port>$port</http_port>
  <listen_host>127.0.0.1</listen_host>
  <path>$1/data/</path>
  <tmp_path>$1/tmp/</tmp_path>
  <mark_cache_size>268435456</mark_cache_size>
  <users_config>users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
</yandex>
XML
cat >users.xml <<XML
<yandex>
  <profiles><default></default></profiles>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
  </users>
  <quotas><default></default></quotas>
</yandex>
XML
PATH=$PATH:/usr/sbin clickhouse-server --config-file=config.xml >out 2>&1 </dev/null &
server=$!
trap 'kill -9 $server 2>/dev/null || true; [ -n "${KEEP:-}" ] || rm -rf "$1"' EXIT
for _ in $(seq 600); do
  if python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/ping', timeout=1)" 2>/dev/null; then
    echo "$port"
    break
  fi
  kill -0 $server || exit 1
  sleep 0.1
done
cat >/dev/null
