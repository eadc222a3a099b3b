#!/usr/bin/env bash
# Installs what pip cannot: the Redis server that kv.py measures against (Debian, Ubuntu). The Python peers are the extra
# "bench". RUNLEVEL=1 keeps the package from starting a server: the benchmark starts its own, on a socket of its own.
set -euo pipefail
command -v redis-server >/dev/null && exit 0
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update --quiet
"${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends redis-server
