#!/usr/bin/env bash
# The interoperability tests of gRPC: its Go client against its Go server, through a proxy, over cleartext and TLS. Ends with
# 77 if they are not there and cannot be installed.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cases=(
    empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server
    cancel_after_begin cancel_after_first_response status_code_and_message special_status_message custom_metadata
    unimplemented_method unimplemented_service
)
version=v1.85.0

# They are called `client` and `server`: a folder of their own.
go_install "$tools/grpc-interop" client "google.golang.org/grpc/interop/client@$version"
go_install "$tools/grpc-interop" server "google.golang.org/grpc/interop/server@$version"
linkerd_bin

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that is free now; it is asked for by number.
port=$((20000 + RANDOM % 20000))
while listens "$port"; do port=$((port + 1)); done
"$tools/grpc-interop/server" -port "$port" -use_tls=false >"$work/server.log" 2>&1 &
pids+=($!)
for _ in {1..300}; do
    if listens "$port"; then break; fi
    sleep 0.1
done

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
  servers:
  - port: 0
    ip: 127.0.0.1
    tls: {certPath: $tls/web.pem, keyPath: $tls/web.key}
YAML

failed=()
run() {
    local label="$1" name
    shift
    for name in "${cases[@]}"; do
        if timeout 60 "$tools/grpc-interop/client" -server_host 127.0.0.1 -server_port "$(port_of "$label")" \
            -test_case "$name" "$@" >"$work/client.log" 2>&1; then
            echo "$label $name: ok"
        else
            echo "$label $name: FAILED"
            cat "$work/client.log"
            failed+=("$label $name")
        fi
    done
}
run clear -use_tls=false
run secure -use_tls=true -use_test_ca=true -ca_file "$tls/ca.pem" -server_host_override web
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
echo "all $((2 * ${#cases[@]})) passed"
