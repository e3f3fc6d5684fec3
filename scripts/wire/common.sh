# shellcheck shell=bash
# What the scripts beside this one have in common: a folder that goes away, and a proxy in it.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
work="$(mktemp -d)"
pids=()

end() {
    if ((${#pids[@]})); then kill "${pids[@]}" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap end EXIT

# Not here: whoever runs this says so, and goes on.
absent() {
    echo "$*" >&2
    exit 77
}

# Installs Go programs of these packages into a folder of their own, unless they are there.
go_install() {
    local to="$1" first="$2" package
    shift 2
    [[ ! -x "$to/$first" ]] || return 0
    command -v go >/dev/null 2>&1 || absent "$first is not there, nor Go to install it with"
    mkdir -p "$to"
    for package; do
        GOBIN="$to" go install "$package" || absent "$package could not be installed"
    done
}

tools="${CARGO_TARGET_DIR:-$root/target}/tools"

# The program to try: LINKERD, or what cargo builds.
linkerd_bin() {
    if [[ -z "${LINKERD:-}" ]]; then
        cargo build --quiet --locked --manifest-path "$root/Cargo.toml" -p linkerd
        LINKERD="${CARGO_TARGET_DIR:-$root/target}/debug/linkerd"
    fi
    [[ -x "$LINKERD" ]] || absent "$LINKERD is not there"
}

# Starts a proxy with the file that is on standard input, and waits until it serves. Its log is $work/log.
start_linkerd() {
    cat >"$work/linkerd.yaml"
    mkdir -p "$work/disco"
    (cd "$work" && exec "$LINKERD" linkerd.yaml >log 2>&1) &
    pids+=($!)
    await_start "the proxy"
}

# Waits until a program says that it serves, in $work/log.
await_start() {
    local tries
    for tries in {1..300}; do
        if grep -q initialized "$work/log" 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    cat "$work/log" >&2
    echo "$1 did not start after $tries looks" >&2
    return 1
}

# The port of the server of this router.
port_of() {
    sed -nE "s/.*serving $1 on .*:([0-9]+)\$/\1/p" "$work/log" | head -n 1
}
