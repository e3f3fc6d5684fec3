#!/usr/bin/env bash
# nginx and HAProxy as endpoints: what they do of themselves with connections, bodies and trailers, by HTTP/1.1 and HTTP/2, in
# the clear and through TLS. Each is skipped if it is not there.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

PATH="$PATH:/usr/sbin"
debian nginx=nginx-light haproxy=haproxy h2load=nghttp2-client curl=curl
has curl || absent "curl is not there"
has nginx || absent "nginx is not there (Debian: nginx-light), which answers for HAProxy too"
linkerd_bin

tls="$root/examples/proxy/config/tls"
mkdir -p "$work/www" "$work/tmp"
echo small >"$work/www/small"
head -c 67108864 /dev/urandom >"$work/www/large"
digest="$(sha256sum <"$work/www/large" | cut -d ' ' -f 1)"
seq 100000 >"$work/www/text"

free_port; clear="$port"
free_port; h2="$port"
free_port; secure="$port"
free_port; sink="$port"
{
    # As root it would not be able to read the folder.
    if [[ "$(id -u)" == 0 ]]; then echo "user root;"; fi
    cat <<NGINX
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.log;
worker_processes 1;
events { worker_connections 512; }
http {
    access_log $work/access.log;
    client_body_temp_path $work/tmp;
    proxy_temp_path $work/tmp;
    fastcgi_temp_path $work/tmp;
    uwsgi_temp_path $work/tmp;
    scgi_temp_path $work/tmp;
    client_max_body_size 0;
    root $work/www;
    # Connections end all the time: after a second of nothing, after some requests.
    keepalive_timeout 1s;
    server {
        listen 127.0.0.1:$clear;
        keepalive_requests 7;
        include $work/locations;
    }
    server {
        listen 127.0.0.1:$h2 http2;
        listen 127.0.0.1:$secure ssl http2;
        ssl_certificate $tls/web.pem;
        ssl_certificate_key $tls/web.key;
        # What is under way at the end is left out and sent again, for which there is a budget.
        keepalive_requests 70;
        include $work/locations;
    }
    server {
        listen 127.0.0.1:$sink;
        location / { add_header x-length \$http_content_length; return 200 swallowed; }
    }
}
NGINX
} >"$work/nginx.conf"
cat >"$work/locations" <<NGINX
location /chunked { gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any; alias $work/www/text; }
# On a stream nothing is announced, which as in Linkerd 1 would be an error; and a length would be all that curl waits for.
location /unannounced { gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any; add_trailer x-sum abc; alias $work/www/text; }
location /trailers { add_header trailer x-sum; add_trailer x-sum abc; alias $work/www/small; }
location /sink { proxy_pass http://127.0.0.1:$sink; proxy_request_buffering on; }
location /none { return 204; }
NGINX
nginx -p "$work" -c "$work/nginx.conf" -e "$work/nginx.log" >"$work/nginx.out" 2>&1 &
pids+=($!)
await_port "$clear" || { cat "$work/nginx.out" "$work/nginx.log"; exit 1; }

routes="/svc/nginx => /$/inet/127.0.0.1/$clear; /svc/nginx-h2 => /$/inet/127.0.0.1/$h2; /svc/nginx-tls => /$/inet/127.0.0.1/$secure"
if has haproxy; then
    free_port; ha="$port"
    free_port; ha2="$port"
    cat >"$work/haproxy.cfg" <<HAPROXY
global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 1s
frontend one
    bind 127.0.0.1:$ha
    default_backend nginx
frontend two
    bind 127.0.0.1:$ha2 proto h2
    default_backend nginx
backend nginx
    server nginx 127.0.0.1:$clear
HAPROXY
    haproxy -db -f "$work/haproxy.cfg" >"$work/haproxy.log" 2>&1 &
    pids+=($!)
    await_port "$ha" || { cat "$work/haproxy.log"; exit 1; }
    routes+="; /svc/haproxy => /$/inet/127.0.0.1/$ha; /svc/haproxy-h2 => /$/inet/127.0.0.1/$ha2"
else
    skip "HAProxy is not there (Debian: haproxy)"
fi

start_linkerd <<YAML
admin: {port: 0}
routers:
- protocol: http
  label: h1
  dtab: "$routes"
  client:
    kind: io.l5d.static
    configs:
    - {prefix: /$/inet/127.0.0.1/$secure, tls: {commonName: web, trustCertsBundle: $tls/ca.pem}}
  servers: [{port: 0, ip: 127.0.0.1}]
- protocol: h2
  label: h2
  dtab: "$routes"
  client:
    kind: io.l5d.static
    configs:
    - {prefix: /$/inet/127.0.0.1/$secure, tls: {commonName: web, trustCertsBundle: $tls/ca.pem}}
  servers: [{port: 0, ip: 127.0.0.1}]
YAML

# What curl is told beside the address, to speak as the router does.
version() { if [[ "$1" == h2 ]]; then echo --http2-prior-knowledge; else echo --http1.1; fi; }

# A request through a router to an upstream.
ask() {
    local router="$1" upstream="$2" path="$3"
    shift 3
    curl -sS -m 60 "$(version "$router")" -H "host: $upstream" "$@" "http://127.0.0.1:$(port_of "$router")$path"
}

small() { expect "$(ask "$1" "$2" /small -w ' %{http_code}')" "small
 200"; }

# Without a length, packed, and the same once unpacked.
chunked() {
    local got
    got="$(ask "$1" "$2" /chunked --compressed -D "$work/head.$1.$2" | sha256sum)"
    expect "$got" "$(sha256sum <"$work/www/text")" || return 1
    expect "$(tr 'A-Z' 'a-z' <"$work/head.$1.$2")" "content-encoding: gzip" || return 1
    [[ "$1" == h2 ]] || expect "$(tr 'A-Z' 'a-z' <"$work/head.$1.$2")" "transfer-encoding: chunked"
}

# Who takes trailers gets them.
trailers() {
    local got
    if [[ "$1" == h2 ]]; then
        got="$(ask "$1" "$2" /unannounced --compressed -o "$work/null" -v -H 'te: trailers' 2>&1)"
    else
        got="$(ask "$1" "$2" /trailers --raw -H 'te: trailers' -H 'connection: te')"
    fi
    expect "$(tr 'A-Z' 'a-z' <<<"$got")" "x-sum: abc"
}

large() { expect "$(ask "$1" "$2" /large | sha256sum)" "$digest"; }

upload() {
    local got
    got="$(ask "$1" "$2" /sink -i -H expect: -X POST -T "$work/www/large" "${@:3}")"
    expect "$got" "x-length: 67108864" && expect "$got" "swallowed"
}

empty() { expect "$(ask "$1" "$2" /none -w '%{http_code}')" 204; }

# A second after each request the upstream closes what is idle: sometimes just as the next one comes.
idle() {
    local i
    for i in 0.98 1 1.01 0.99 1.02 1 0.995 1.005; do
        small "$@" || { echo "after $i s"; return 1; }
        sleep "$i"
    done
}

# And after so many requests.
closes() {
    local n=1000 out options=()
    if [[ "$1" == h1 ]]; then options=(--h1); fi
    out="$(timeout 60 h2load -n "$n" -c 8 "${options[@]}" -H ":authority: $2" "http://127.0.0.1:$(port_of "$1")/small")" &&
        expect "$out" "status codes: $n 2xx"
}

try() {
    local router="$1" upstream="$2" what
    for what in small chunked large upload empty idle; do check "$router to $upstream: $what" "$what" "$router" "$upstream"; done
    check "$router to $upstream: upload in chunks" upload "$router" "$upstream" -H 'transfer-encoding: chunked'
    if has h2load; then
        check "$router to $upstream: closes after some" closes "$router" "$upstream"
    else
        skip "h2load is not there (Debian: nghttp2-client)"
    fi
}
try h1 nginx
check "h1 to nginx: trailers" trailers h1 nginx
try h1 nginx-tls
try h2 nginx-h2
check "h2 to nginx-h2: trailers" trailers h2 nginx-h2
try h2 nginx-tls
if has haproxy; then
    try h1 haproxy
    check "h1 to haproxy: trailers" trailers h1 haproxy
    try h2 haproxy-h2
    check "h2 to haproxy-h2: trailers" trailers h2 haproxy-h2
fi
finish
