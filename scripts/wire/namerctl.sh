#!/usr/bin/env bash
# The original namerctl, in Go, against namerd: each of its commands, its versions and conflicts, what it prints and how it
# ends. Ends with 77 if it is not there and cannot be installed. NAMERCTL is another one to try, NAMERD the namerd.
set -euo pipefail
# shellcheck source=scripts/wire/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -z "${NAMERCTL:-}" ]]; then
    # By what it is for and not by its name: one on the path may be this project's.
    go_install "$tools/namerctl-go" namerctl github.com/linkerd/namerctl@latest
    NAMERCTL="$tools/namerctl-go/namerctl"
fi
[[ -x "$NAMERCTL" ]] || absent "$NAMERCTL is not there"
if [[ -z "${NAMERD:-}" ]]; then
    cargo build --quiet --locked --manifest-path "$root/Cargo.toml" -p namerd
    NAMERD="${CARGO_TARGET_DIR:-$root/target}/debug/namerd"
fi

cat >"$work/namerd.yaml" <<YAML
admin: {port: 0}
storage: {kind: io.l5d.fs, directory: tables}
interfaces: [{kind: io.l5d.httpController, port: 0}]
YAML
(cd "$work" && exec "$NAMERD" namerd.yaml >log 2>&1) &
pids+=($!)
await_start namerd
port="$(sed -nE 's/.*serving io\.l5d\.httpController.* on .*:([0-9]+)$/\1/p' "$work/log" | head -n 1)"
export NAMERCTL_BASE_URL="http://127.0.0.1:$port"

cd "$work"
failed=0
# ctl CODE TEXT WORD...: runs it, and expects this exit code, and this on standard output.
ctl() {
    local code="$1" text="$2" ended=0 out
    shift 2
    out="$("$NAMERCTL" "$@" 2>err)" || ended=$?
    if [[ "$ended" == "$code" && "$out" == "$text" ]]; then
        echo "namerctl $*: as expected"
    else
        failed=1
        printf 'namerctl %s: exit code %s and:\n%s\nexpected: %s and:\n%s\n' "$*" "$ended" "$out" "$code" "$text"
        cat err
    fi
}
version() { "$NAMERCTL" dtab get web | sed -n 's/^# version //p'; }

table='/svc => /host ; /host/world => 3 * /srv/world-v2 & 7 * /srv/world-v1 ;'
echo "$table" >table.dtab
ctl 0 '' dtab list
ctl 0 'Created web' dtab create web table.dtab
ctl 255 'unexpected response: 409 Conflict' dtab create web table.dtab
ctl 0 'web' dtab ls
ctl 0 '["web"]' dtab list --json
first="$(version)"
ctl 0 "# version $first
/svc         => /host ;
/host/world  => 3.00*/srv/world-v2 & 7.00*/srv/world-v1 ;" dtab get web
ctl 0 '/svc=>/host;/host/world=>3.00*/srv/world-v2 & 7.00*/srv/world-v1;' dtab cat web --pretty=false
"$NAMERCTL" dtab get web --json >web.json

# What it read goes back with its version, once.
ctl 0 'Updated web' dtab update web web.json
ctl 255 'unexpected response: 412 Precondition Failed' dtab update web web.json
ctl 255 'unexpected response: 412 Precondition Failed' dtab update web table.dtab --version "$first"
ctl 0 'Updated web' dtab up web table.dtab --version "$(version)"
ctl 0 'Updated web' dtab update web table.dtab
ctl 0 'Updated new' dtab update new table.dtab
ctl 255 'resource was not found by ID or name' dtab update none table.dtab --version "$first"

echo '/svc => ' >bad.dtab
ctl 255 'unexpected response: 400 Bad Request' dtab update web bad.dtab
ctl 0 'Deleted web' dtab delete web
ctl 255 'resource was not found by ID or name' dtab rm web
ctl 255 'resource was not found by ID or name' dtab get web
ctl 0 'new' dtab list
exit "$failed"
