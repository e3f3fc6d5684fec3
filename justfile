# `just` lists the recipes; `just check` is what CI runs.

root := justfile_directory()

# The recipes.
[private]
default:
    @just --list

# Everything that CI runs, or the steps that are named: `just check fmt clippy`.
check *steps:
    CI_STEPS="{{ steps }}" .ci/run

# The tests, as the README has it.
test *args:
    cargo test --workspace {{ args }}

# Formats everything.
fmt:
    cargo fmt --all

# The benchmarks, or those whose name matches: `just bench pick`.
bench *args:
    cargo bench -p benches -- {{ args }}

# The proxy beside the least that a proxy on hyper can be: the tables of docs/performance.md, in half an hour.
bench-e2e *args:
    cargo build --release -p linkerd
    cargo run --release -p benches --example e2e -- {{ args }}

# What it takes of memory, with a million names that nobody has.
size:
    just bench-e2e --only memory --hosts 1000000

# What a scrape once a second does to requests, with two thousand destinations. Needs 2,500 open files.
scrape *args:
    just bench-e2e --only scrape {{ args }}

# Fuzzes one target for so many seconds. Needs a nightly toolchain and `cargo install --locked cargo-fuzz`.
fuzz target secs="60" crate="linkerd-dtab":
    cd {{ crate }} && cargo +nightly fuzz run {{ target }} -- -max_total_time={{ secs }}

# Every interleaving of the code that has atomics of its own. A directory of its own: the flag is for all crates.
loom *args:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="{{ root }}/target/loom" cargo test -p linkerd-balance --test loom --test load_loom --release {{ args }}

# Plays the balancer's scenarios and writes their tables and plots to docs/balancing.md.
sim:
    SIM_WRITE=1 cargo test -p linkerd-balance --test sim report -- --nocapture

# Three proxies in a row before a backend that fails everything for half a minute: how many requests it sees for each.
amplification:
    AMPLIFICATION_SECS=30 cargo test --release -p linkerd --test process retries_of -- --nocapture --test-threads=1

# Ten seconds of three times what a backend can do, through a limit.
overload:
    OVERLOAD_SECS=10 cargo test --release -p linkerd --test process overload -- --nocapture

# Both of these, by a release build.
proofs: overload amplification

# A thousand clients of a namerd, with ten names each that nobody else has, cut off a hundred times, by each interface.
soak:
    LOAD_CLIENTS=999 LOAD_DISCONNECTS=100 LOAD_MAX_SECONDS=1 LOAD_MAX_MIB=50 cargo test --release -p namerd --test process many_clients -- --nocapture --test-threads=1

# Binds a second, and how soon a change reaches 1, 100 and 1,000 watchers, by each interface of a namerd, over pipes in memory.
bench-namerd *args:
    cargo bench -p benches --bench namerd -- {{ args }}

# The same between processes, over sockets.
fan-out:
    for clients in 1 100 1000; do LOAD_CLIENTS=$clients LOAD_NAMES=1 LOAD_DISCONNECTS=0 LOAD_WRITES=50 cargo test --release -p namerd --test process many_clients -- --nocapture --test-threads=1 || exit 1; done

# Five hundred reloads under load, with a tunnel and a stream open all the time.
reloads:
    RELOADS=500 cargo test --release -p linkerd --test process reload_streams -- --nocapture

# Uploads of a gibibyte whose first endpoint refuses them: they go to the other one, and none of it is kept.
upload:
    UPLOAD_MIB=1024 cargo test --release -p linkerd --test process upload -- --nocapture

# An answer of a gibibyte over HTTP/2 to who reads it slowly: it waits at its sender.
slow-reader:
    SLOW_MIB=1024 cargo test --release -p linkerd --test process slow_reader -- --nocapture

# Cuts the connection to an origin at every byte, under each classifier and in each way. The tests have a third of it.
cuts:
    CUTS=all cargo test -p linkerd-core --all-features --test http cuts -- --nocapture

# A million requests to an endpoint that closes idle connections at any moment: no GET fails, no POST comes twice.
reuse:
    REUSE_GETS=1000000 cargo test --release -p linkerd-core --all-features --test http -- reuse --nocapture

# Writes the Rust of linkerd-dtab/proto. CI checks that it is current.
proto:
    PROTO_WRITE=1 cargo run --manifest-path scripts/proto/Cargo.toml

# The 145 tests of h2spec against a proxy, over cleartext and TLS. Needs h2spec, or Go to install it.
h2spec:
    scripts/wire/h2spec.sh

# What others wrote: curl, nghttp, h2load, grpcio, grpc-go, nginx, HAProxy, or those that are named: `just interop clients`. What is
# not there and cannot be installed is skipped, and said.
interop *parts:
    scripts/wire/interop.sh {{ parts }}

# The stores of namerd against real servers: etcd by both of its versions, ZooKeeper. Needs both (Debian: etcd-server, zookeeper).
stores:
    CI_STEPS=stores .ci/run
    cargo test -p linkerd-dtab --all-features --test stores

# The original namerctl, in Go, against namerd. Needs Go to install it, once, or NAMERCTL with a path to it.
namerctl-go:
    scripts/wire/namerctl.sh

# Licences, advisories, sources. Needs `cargo install --locked cargo-deny`.
deny:
    cargo deny --all-features check

# Each feature of each crate alone.
each-feature:
    CI_STEPS=features .ci/run

# Every combination of features. Needs `cargo install --locked cargo-hack`; takes long.
feature-powerset:
    cargo hack clippy -p linkerd-dtab -p linkerd-balance -p linkerd-retry -p linkerd-core --lib --feature-powerset -- -D warnings

# Replays recorded behaviour of the real Linkerd: the folder with `replay.py`, then its arguments.
[no-cd]
golden folder *args:
    cargo build --release --manifest-path "{{ root }}/Cargo.toml" -p linkerd
    cd "{{ folder }}" && python3 replay.py --proxy '{{ root }}/target/release/linkerd {config}' {{ args }}

# The demo: `just quickstart --once` ends by itself.
quickstart *args:
    cargo run --release -p quickstart -- {{ args }}

# A delivery to three nodes: `just delivery --once` ends by itself.
delivery *args:
    cargo run --release -p quickstart -- --delivery {{ args }}

# The delivery job with a real namerd, proxies, git and curl.
delivery-job:
    cargo test -p namerctl --test cli delivery_live -- --nocapture

# The API documentation, in a browser.
docs:
    cargo doc --workspace --no-deps --all-features --open
