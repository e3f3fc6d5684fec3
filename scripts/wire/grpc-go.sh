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

# It is asked for by number.
free_port
"$tools/grpc-interop/server" -port "$port" -use_tls=false >"$work/server.log" 2>&1 &
pids+=($!)
await_port "$port"

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

run() {
    local label="$1" name
    shift
    for name in "${cases[@]}"; do
        check "$label $name" timeout 60 "$tools/grpc-interop/client" -server_host 127.0.0.1 -server_port "$(port_of "$label")" \
            -test_case "$name" "$@"
    done
}
run clear -use_tls=false
run secure -use_tls=true -use_test_ca=true -ca_file "$tls/ca.pem" -server_host_override web
finish
