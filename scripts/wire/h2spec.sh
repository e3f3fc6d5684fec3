#!/usr/bin/env bash
# h2spec against a proxy, over cleartext and TLS. Fails if anything fails that is not named below. Ends with 77 if h2spec is
# not there and cannot be installed.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What may fail, and docs/h2.md says why.
known=(
    "Sends a POST request with trailers"
)

if ! h2spec="$(command -v h2spec)"; then
    go_install "$tools" h2spec 'github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible'
    h2spec="$tools/h2spec"
fi
linkerd_bin

start_linkerd <<YAML
admin: {port: 0}
namers:
- kind: io.l5d.fs
  rootDir: disco
routers:
- protocol: h2
  label: clear
  dtab: /svc => /#/io.l5d.fs/whole
  client: {http1: true}
  # Few, so that a burst of one more comes while they are open.
  servers: [{port: 0, ip: 127.0.0.1, maxConcurrentStreamsPerConnection: 20}]
- protocol: h2
  label: secure
  dtab: /svc => /#/io.l5d.fs/whole
  client: {http1: true}
  servers:
  - port: 0
    ip: 127.0.0.1
    maxConcurrentStreamsPerConnection: 20
    tls:
      certPath: $root/examples/proxy/config/tls/web.pem
      keyPath: $root/examples/proxy/config/tls/web.key
# A request that goes wrong is found out before it is answered: requests are read whole here.
- protocol: http
  label: whole
  streamingEnabled: false
  dtab: /svc => /#/io.l5d.fs/admin
  servers: [{port: 0, ip: 127.0.0.1}]
YAML
echo "127.0.0.1 $(port_of whole)" >"$work/disco/whole"
echo "127.0.0.1 $(port_of 'http admin')" >"$work/disco/admin"
# Until the file was seen, a name stands for nothing.
sleep 1

run() {
    local name="$1" label="$2" out="$work/$2.out" failed=0 test
    shift 2
    "$h2spec" -h 127.0.0.1 -p "$(port_of "$label")" -o 3 "$@" >"$out" 2>&1 || true
    grep -qE '^145 tests, ' "$out" || { cat "$out"; echo "h2spec over $name: did not run to its end" >&2; return 1; }
    while read -r test; do
        local known_one is_known=""
        for known_one in "${known[@]}"; do
            if [[ "$test" == "$known_one" ]]; then is_known=1; fi
        done
        echo "h2spec over $name: ${is_known:+as expected, }failed: $test"
        if [[ -z "$is_known" ]]; then failed=1; fi
    done < <(sed -n '/^Failures/,$p' "$out" | sed -nE 's/^ *× [0-9]+: //p')
    echo "h2spec over $name: $(tail -n 1 "$out")"
    if ((failed)); then
        sed -n '/^Failures/,$p' "$out"
        return 1
    fi
}

run cleartext clear
run TLS secure -t -k
