//! The engine, from a request to its response, with a stub in the place of the network.

use std::hint::black_box;

use benches::{Static, Stub, addrs, path, run, runtime};
use criterion::Criterion;
use http::Request;
use linkerd_core::{Body, Client, Mesh, http::RequestContext, identify::HeaderToken};
use tokio::runtime::Runtime;

fn main() {
    run(&[stack]);
}

fn mesh(proxy: bool) -> Mesh {
    Mesh::builder()
        .namer("/#/static", Static::new(addrs(4)))
        .dtab("/svc => /#/static".parse().expect("a table"))
        .connect(Stub)
        .proxy(proxy)
        .build()
        .expect("a mesh")
}

fn send(runtime: &Runtime, client: &Client, req: impl Fn() -> Request<Body>) {
    let rsp = runtime.block_on(client.send(black_box(req())));
    assert!(rsp.is_ok(), "{rsp:?}");
}

fn plain() -> Request<Body> {
    Request::get("/").header("host", "web").body(Body::empty()).expect("a request")
}

/// As a server passes it on.
fn from_server() -> Request<Body> {
    let mut req = plain();
    let cx = RequestContext::read(req.headers_mut()).expect("no headers of ours");
    req.extensions_mut().insert(cx);
    req
}

fn stack(c: &mut Criterion) {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut group = c.benchmark_group("stack");
    // To be taken off the others.
    group.bench_function("request_alone", |b| b.iter(|| black_box(plain())));
    let (embedded, proxy) = (mesh(false), mesh(true));
    let fixed = embedded.client("/svc/web").expect("a path");
    group.bench_function("fixed", |b| b.iter(|| send(&runtime, &fixed, plain)));
    let routed = embedded.router(HeaderToken::host(path("/svc")));
    group.bench_function("routed", |b| b.iter(|| send(&runtime, &routed, plain)));
    let proxied = proxy.router(HeaderToken::host(path("/svc")));
    group.bench_function("proxied", |b| b.iter(|| send(&runtime, &proxied, from_server)));
    group.finish();
}
