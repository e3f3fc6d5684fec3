#!/usr/bin/env bash
# Python's gRPC, a client and a server, through a proxy over cleartext and TLS. Ends with 77 if it is not there and cannot be
# installed.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
version=1.85.1

has python3 || absent "python3 is not there"
python=python3
if ! "$python" -c 'import grpc' 2>/dev/null; then
    python="$tools/grpcio/bin/python"
    if [[ ! -x "$python" ]]; then
        python3 -m venv "$tools/grpcio" && "$tools/grpcio/bin/pip" install -q "grpcio==$version" ||
            { rm -rf "$tools/grpcio"; absent "grpcio is not there (\`pip install grpcio\`)"; }
    fi
fi
linkerd_bin

"$python" "$root/scripts/wire/grpcio.py" serve >"$work/port" 2>"$work/server.log" &
pids+=($!)
printed_port "$work/port" || { cat "$work/server.log"; exit 1; }

tls="$root/examples/proxy/config/tls"
start_linkerd <<YAML
admin: {port: 0}
routers:
- protocol: h2
  label: clear
  identifier: {kind: io.l5d.header.path, segments: 1}
  dtab: /svc => /$/inet/127.0.0.1/$port
  service: {responseClassifier: {kind: io.l5d.h2.grpc.default}}
  servers: [{port: 0, ip: 127.0.0.1}]
- protocol: h2
  label: secure
  identifier: {kind: io.l5d.header.path, segments: 1}
  dtab: /svc => /$/inet/127.0.0.1/$port
  servers: [{port: 0, ip: 127.0.0.1, tls: {certPath: $tls/web.pem, keyPath: $tls/web.key}}]
YAML

run() {
    local label="$1" verdict count=0
    shift
    while read -r verdict; do
        count=$((count + 1))
        check "grpcio over $label: ${verdict#*ok }" expect "$verdict" "$(sed 's/^not //' <<<"$verdict" | grep -o '^ok')" "$verdict"
    done < <(timeout 120 "$python" "$root/scripts/wire/grpcio.py" run "127.0.0.1:$(port_of "$label")" "$@" 2>&1 | grep -E '^(not )?ok ')
    check "grpcio over $label: ran to its end" test "$count" -eq 12
}
run clear
run secure "$tls/ca.pem"
finish
