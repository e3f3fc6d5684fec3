# shellcheck shell=bash
# What the scripts beside this one have in common: a folder that goes away, a proxy in it, and a count of what passed.

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

has() { command -v "$1" >/dev/null 2>&1; }

# Installs Debian packages for these programs, if root may: `debian nginx=nginx-light h2load=nghttp2-client`.
debian() {
    local pair packages=()
    for pair; do
        has "${pair%%=*}" || packages+=("${pair#*=}")
    done
    if ((${#packages[@]} == 0)) || ! has apt-get || [[ "$(id -u)" != 0 ]]; then return 0; fi
    # In this run level nothing is started that is installed.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >"$work/apt" 2>&1 ||
        echo "could not be installed: ${packages[*]}" >&2
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

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port that is free now, and that nobody else here was told of.
ports=()
free_port() {
    port=$((20000 + RANDOM % 12000))
    while listens "$port" || [[ " ${ports[*]} " == *" $port "* ]]; do port=$((port + 1)); done
    ports+=("$port")
}

# Waits for a program that was started, and has to listen there.
await_port() {
    local tries
    for tries in {1..300}; do
        if listens "$1"; then return 0; fi
        sleep 0.1
    done
    echo "nothing listens on $1 after $tries looks" >&2
    return 1
}

# The port that a program prints, into this file.
printed_port() {
    local tries
    for tries in {1..300}; do
        port="$(cat "$1")"
        if [[ -n "$port" ]]; then return 0; fi
        sleep 0.1
    done
    echo "no port in $1 after $tries looks" >&2
    return 1
}

passed=0
failed=()
skipped=()

# Runs one check, a command or a function that fails or says nothing of interest.
check() {
    local name="$1" out begun="$EPOCHREALTIME"
    shift
    if out="$("$@" 2>&1)"; then
        passed=$((passed + 1))
        echo "$name: ok ($(((${EPOCHREALTIME/./} - ${begun/./}) / 1000)) ms)"
    else
        echo "$name: FAILED"
        cut -c 1-200 <<<"$out" | tail -n 40 | sed 's/^/    /'
        failed+=("$name")
    fi
}

# What cannot be checked here.
skip() {
    echo "!!! SKIPPED: $*"
    skipped+=("$*")
}

# Fails with what it got, unless there is this in it.
expect() {
    local got="$1" wanted="$2"
    [[ "$got" == *"$wanted"* ]] || { printf 'no "%s" in:\n%s\n' "$wanted" "$got"; return 1; }
}

# The end: 1 if something failed, 77 if nothing could be checked.
finish() {
    if ((${#skipped[@]})); then printf 'SKIPPED: %s\n' "${skipped[@]}"; fi
    if ((${#failed[@]})); then
        printf 'FAILED: %s\n' "${failed[@]}" >&2
        echo "$passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
        exit 1
    fi
    ((passed)) || absent "nothing could be checked"
    echo "all $passed passed, ${#skipped[@]} skipped"
}

# The port of the server of this router.
port_of() {
    sed -nE "s/.*serving $1 on .*:([0-9]+)\$/\1/p" "$work/log" | head -n 1
}
