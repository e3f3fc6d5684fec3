#!/usr/bin/env bash
# curl, nghttp and h2load against routers of HTTP/1.1 and HTTP/2, over cleartext and TLS. A program that is not there is
# skipped.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

debian curl=curl nghttp=nghttp2-client h2load=nghttp2-client python3=python3-minimal
linkerd_bin
tls="$root/examples/proxy/config/tls"

# What answers tells what it was sent.
has python3 || absent "python3 is not there to answer"
python3 "$root/scripts/wire/origin.py" >"$work/origin" 2>"$work/origin.log" &
pids+=($!)
printed_port "$work/origin" || { cat "$work/origin.log"; exit 1; }
origin="$port"

secure="tls: {certPath: $tls/web.pem, keyPath: $tls/web.key}"
start_linkerd <<YAML
admin: {port: 0}
routers:
- protocol: http
  label: h1
  dtab: /svc => /$/inet/127.0.0.1/$origin
  servers: [{port: 0, ip: 127.0.0.1}]
- protocol: http
  label: h1s
  dtab: /svc => /$/inet/127.0.0.1/$origin
  servers: [{port: 0, ip: 127.0.0.1, $secure}]
- protocol: h2
  label: h2c
  dtab: /svc => /$/inet/127.0.0.1/$origin
  client: {http1: true}
  # Room for what nghttp --continuation sends.
  servers: [{port: 0, ip: 127.0.0.1, maxHeaderListBytes: 65536}]
- protocol: h2
  label: h2s
  dtab: /svc => /$/inet/127.0.0.1/$origin
  client: {http1: true}
  servers: [{port: 0, ip: 127.0.0.1, $secure}]
YAML

# Where a router is: what has an s at its end is reached through TLS.
url() {
    local scheme=http
    if [[ "$1" == *s ]]; then scheme=https; fi
    echo "$scheme://${2:-127.0.0.1}:$(port_of "$1")/some/path"
}

# --- curl -----------------------------------------------------------------------------------------

# One request to a router; the answer's body, then its version and code. Over TLS the name has to be verified.
ask() {
    local label="$1"
    shift
    curl -sS -m 20 --cacert "$tls/ca.pem" --resolve "web:$(port_of "$label"):127.0.0.1" -w '%{http_version} %{http_code}' "$@" \
        "$(url "$label" web)"
}

get() {
    local version="$1" out
    shift
    out="$(ask "$@")" && expect "$out" "GET 0 e3b0c442" && expect "$out" "$version 200"
}

head_only() {
    local out
    out="$(ask "$1" -I "${@:2}")" && expect "$out" "200"
}

# An upload comes whole, framed as it was sent.
upload() {
    local framing="$1" version="$2" out
    shift 2
    out="$(ask "$@")" && expect "$out" "$(stat -c %s "$work/upload") $digest $framing" && expect "$out" "$version 200"
}

# A body is sent once the proxy said that it may be.
continued() {
    local out
    out="$(ask "$1" -v --expect100-timeout 20 -H 'expect: 100-continue' --data-binary "@$work/upload" 2>&1)" &&
        expect "$out" "< HTTP/1.1 100 Continue" && expect "$out" "$digest"
}

# Both requests go over one connection.
kept() {
    local out
    out="$(curl -sS -m 20 -w '%{num_connects} ' -o "$work/null" -o "$work/null" "${@:2}" "$(url "$1")" "$(url "$1")")" &&
        expect "$out" "1 0"
}

if has curl; then
    head -c 3000000 /dev/urandom >"$work/upload"
    digest="$(sha256sum <"$work/upload" | cut -d ' ' -f 1)"
    check "curl: HTTP/1.1" get 1.1 h1
    check "curl: HTTP/1.1 over TLS" get 1.1 h1s
    check "curl: HTTP/2 by prior knowledge" get 2 h2c --http2-prior-knowledge
    check "curl: HTTP/2 by Upgrade: h2c" get 2 h2c --http2
    check "curl: HTTP/2 over TLS" get 2 h2s --http2
    check "curl: HTTP/1.1 over TLS, where HTTP/2 is offered" get 1.1 h1s --http2
    check "curl: HTTP/1.0" get 1 h1 --http1.0
    check "curl: HEAD of HTTP/1.1" head_only h1
    check "curl: HEAD of HTTP/2" head_only h2c --http2-prior-knowledge
    check "curl: upload of a known length" upload length 1.1 h1 -H expect: --data-binary "@$work/upload"
    check "curl: upload in chunks" upload chunked 1.1 h1 -H expect: -H 'transfer-encoding: chunked' -T "$work/upload" -X POST
    check "curl: upload over TLS" upload length 1.1 h1s -H expect: --data-binary "@$work/upload"
    check "curl: upload by HTTP/2" upload "" 2 h2c --http2-prior-knowledge --data-binary "@$work/upload"
    check "curl: upload by HTTP/2 over TLS" upload "" 2 h2s --http2 -T "$work/upload" -X POST
    check "curl: 100-continue" continued h1
    check "curl: 100-continue over TLS" continued h1s
    check "curl: a connection is kept by HTTP/1.1" kept h1
    # By prior knowledge curl 7.88 cannot do it, with nginx neither.
    check "curl: a connection is kept by HTTP/2" kept h2c --http2
else
    skip "curl is not there"
fi

# --- nghttp ---------------------------------------------------------------------------------------

frames() {
    local label="$1" wanted="$2" out
    shift 2
    out="$(timeout 20 nghttp -v -t 10 "$@" "$(url "$label")" 2>&1)" && expect "$out" ":status: 200" && expect "$out" "$wanted"
}

if has nghttp; then
    check "nghttp: prior knowledge" frames h2c 'GET 0 '
    check "nghttp: Upgrade: h2c" frames h2c "HTTP Upgrade success" -u
    check "nghttp: TLS" frames h2s "The negotiated protocol: h2" -y
    check "nghttp: a hundred streams" frames h2c "stream_id=201" -m 100 -n
    check "nghttp: small windows" frames h2c 'GET 0 ' -w 10 -W 10
    check "nghttp: padding" frames h2c 'GET 0 ' -b 100
    check "nghttp: continuation frames" frames h2c 'GET 0 ' --continuation
else
    skip "nghttp is not there (Debian: nghttp2-client)"
fi

# --- h2load ---------------------------------------------------------------------------------------

many() {
    local label="$1" n=1000 out
    shift
    out="$(timeout 60 h2load -n "$n" "$@" "$(url "$label")")" &&
        expect "$out" "$n succeeded, 0 failed, 0 errored, 0 timeout" && expect "$out" "status codes: $n 2xx"
}

if has h2load; then
    check "h2load: HTTP/2" many h2c -c 4 -m 10
    check "h2load: HTTP/2 over TLS" many h2s -c 4 -m 10
    check "h2load: a connection with many streams" many h2c -c 1 -m 50
    check "h2load: HTTP/1.1" many h1 -c 10 --h1
else
    skip "h2load is not there (Debian: nghttp2-client)"
fi
finish
