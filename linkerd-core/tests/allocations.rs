//! What a request costs in allocations: the engine's budget, the price of each seam, and the whole proxy.
//!
//! The counter counts the allocations of one thread, so everything runs on one. What is made once (bindings, stats,
//! connections) is made by the requests before those that are counted.

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, header::HOST};
use linkerd_core::{
    Body, Client, Error, HedgePolicy, HttpService, LimitPolicy, Mesh, MeshBuilder, ServicePolicy, Svc, Uniform,
    balance::{Balance, BalanceService, Policy},
    dtab::{Bound, Endpoint, Path, interpreter::Local, namer::Inet, naming::NamingLayer},
    http::Connect,
    identify::{HeaderToken, PathSegments},
    retry::{
        ResponseClass, hedge::HedgeDelay, limit::WhenFull, requeue::RequeueLayer, retry::RetryLayer,
        timeout::TotalTimeoutLayer,
    },
};
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceBuilder, ServiceExt, layer::layer_fn};

const WARM_UP: u64 = 64;
/// So many that what happens once (a table that grows, a task that wakes) is less than one for each.
const COUNTED: u64 = 256;

/// The network: each endpoint answers at once.
struct Stub;

impl Connect for Stub {
    fn connect(&self, _endpoint: &Endpoint) -> Svc {
        Svc::new(tower::service_fn(|_req: Request<Body>| ready(Ok::<_, Infallible>(Response::new(Body::empty())))))
    }
}

/// A layer of somebody's own that costs nothing itself.
#[derive(Clone)]
struct Passing<S>(S);

impl<S: Service<Request<Body>>> Service<Request<Body>> for Passing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, req: Request<Body>) -> S::Future {
        self.0.call(req)
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn mesh() -> MeshBuilder {
    Mesh::builder().connect(Stub).dtab("/svc => /$/inet/127.0.0.1/1".parse().unwrap())
}

fn fixed(mesh: MeshBuilder) -> u64 {
    per_request(mesh, |mesh| mesh.client("/svc").unwrap(), || Request::new(Body::empty()))
}

/// Allocations per request, requests and runtime not counted.
fn per_request(mesh: MeshBuilder, client: impl Fn(&Mesh) -> Client, request: impl Fn() -> Request<Body>) -> u64 {
    let runtime = runtime();
    let client = runtime.block_on(async { client(&mesh.build().unwrap()) });
    let mut requests: Vec<_> = (0..WARM_UP + COUNTED).map(|_| request()).collect();
    let counted = requests.split_off(WARM_UP as usize);
    let send = |requests: Vec<Request<Body>>| {
        runtime.block_on(async {
            for req in requests {
                drop(client.send(req).await);
            }
        });
    };
    send(requests);
    allocation_counter::measure(|| send(counted)).count_total / COUNTED
}

#[test]
fn a_client_of_one_name_costs_a_box_for_each_stack() {
    assert_eq!(fixed(mesh()), 2);
}

#[test]
fn a_router_costs_the_name_beside() {
    let router = |mesh: &Mesh| mesh.router(PathSegments::new("/svc".parse().unwrap(), 1, false));
    let request = || {
        let mut req = Request::new(Body::empty());
        *req.uri_mut() = http::Uri::from_static("/web");
        req
    };
    assert_eq!(per_request(mesh(), router, request), 3);
}

#[test]
fn a_request_with_headers_costs_their_copy_beside() {
    let router = |mesh: &Mesh| mesh.router(HeaderToken::host("/svc".parse().unwrap()));
    let request = || {
        let mut req = Request::new(Body::empty());
        req.headers_mut().insert(HOST, HeaderValue::from_static("web"));
        req
    };
    // The headers are kept in a row, so that the request can be sent again.
    assert_eq!(per_request(mesh(), router, request), 4);
    // Below a client layer the attempt begins anew, and so does what is kept of it.
    assert_eq!(per_request(mesh().client_layer(layer_fn(Passing)), router, request), 8);
}

#[test]
fn a_path_layer_costs_one_and_an_endpoint_layer_costs_one() {
    let layer = || layer_fn(Passing);
    assert_eq!(fixed(mesh().path_layer(layer())), 3);
    assert_eq!(fixed(mesh().path_layer(layer()).path_layer(layer())), 4);
    assert_eq!(fixed(mesh().endpoint_layer(layer())), 3);
    assert_eq!(fixed(mesh().endpoint_layer(layer()).endpoint_layer(layer())), 4);
}

#[test]
fn a_hedge_costs_nothing_where_there_is_none() {
    let hedged = |delay| {
        let hedge = HedgePolicy::new(HedgeDelay::Fixed(Duration::from_millis(delay))).unwrap();
        let service = ServicePolicy { hedge: Some(hedge), ..ServicePolicy::default() };
        mesh().policies(Uniform { service, ..Uniform::default() })
    };
    // The two legs' box, the first's, and what both know.
    assert_eq!(fixed(hedged(1000)), 5);
    let post = |mesh| {
        let request = || Request::post("/").body(Body::empty()).unwrap();
        per_request(mesh, |mesh| mesh.client("/svc").unwrap(), request)
    };
    assert_eq!(post(hedged(1000)), post(mesh()), "it is never sent twice at once");
}

#[test]
fn a_limit_costs_nothing_unless_somebody_waits() {
    let max = std::num::NonZeroUsize::MIN;
    let service = ServicePolicy {
        limit: Some(LimitPolicy::concurrency(max, WhenFull::Queue { capacity: 1, wait: Duration::from_secs(1) })),
        ..ServicePolicy::default()
    };
    assert_eq!(fixed(mesh().policies(Uniform { service, ..Uniform::default() })), 2);
}

#[test]
fn layers_in_one_builder_share_a_seam() {
    let both = || ServiceBuilder::new().layer(layer_fn(Passing)).layer(layer_fn(Passing));
    assert_eq!(fixed(mesh().path_layer(both())), 3);
    assert_eq!(fixed(mesh().endpoint_layer(both())), 3);
}

#[test]
fn a_first_client_layer_costs_three_and_each_further_one() {
    let layer = || layer_fn(Passing);
    assert_eq!(fixed(mesh().client_layer(layer())), 5);
    assert_eq!(fixed(mesh().client_layer(layer()).client_layer(layer())), 6);
}

/// A naming layer has a box for each request; the others are state machines.
#[test]
fn parts_without_a_mesh_cost_what_is_erased() {
    let ok = |_: &Request<Body>, rsp: Result<&Response<Body>, &Error>| match rsp {
        Ok(_) => ResponseClass::Success,
        Err(_) => ResponseClass::NON_RETRYABLE,
    };
    let once = |_: &Request<Body>| None;
    let balanced = || {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
        let balance = Balance::new(Policy::peak_ewma(), move |_: &u8, _: &_| Stub.connect(&endpoint));
        balance.update([(1, 1.0)]).unwrap();
        BalanceService::new(balance)
    };
    let above = || {
        ServiceBuilder::new()
            .layer(TotalTimeoutLayer::new(Duration::from_secs(1)))
            .layer(RetryLayer::new(ok).copy_with(once))
            .layer(RequeueLayer::new())
    };
    // The endpoint's own: it is a `Svc`.
    assert_eq!(calls(&runtime(), &above().service(balanced())), 1);
    let interpreter = Local::new(Vec::new(), Arc::new(Inet::default()));
    let naming = NamingLayer::new(interpreter, "/svc => /$/inet/127.0.0.1/1".parse().unwrap(), |_: &Request<Body>| {
        Path::from_elements(["svc"]).unwrap_or_default()
    });
    let make = tower::service_fn(move |_: Bound| ready(Ok::<_, Infallible>(balanced())));
    // And the naming's, and the name that is made for each request.
    assert_eq!(calls(&runtime(), &above().layer(naming).service(make)), 3);
}

/// Allocations per call of a service.
fn calls(runtime: &Runtime, svc: &impl HttpService) -> u64 {
    let call = |times| {
        runtime.block_on(async {
            for req in times {
                let rsp = svc.clone().oneshot(req).await;
                assert!(rsp.is_ok());
            }
        });
    };
    let requests = |n| (0..n).map(|_| Request::new(Body::empty())).collect::<Vec<_>>();
    call(requests(WARM_UP));
    let counted = requests(COUNTED);
    allocation_counter::measure(|| call(counted)).count_total / COUNTED
}

/// Requests over loopback, through the proxy's server and client, in a steady state: one connection on each side, on one
/// thread. Neither end allocates, so all that is counted is the proxy's, hyper's two connections and tokio included.
#[cfg(feature = "server")]
mod proxy {
    use std::net::SocketAddr;

    use linkerd_core::{
        http::{ClientConfig, HttpConnect, Server, ServerConfig},
        identify::HeaderToken,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// As measured. It may fall, and is lowered then; of these
    ///
    /// - 6 are hyper's: two reads' buffers and what shares each of them, a body's channel, an answer's channel,
    /// - 3 the name and the two stacks,
    /// - 1 the request's context: the map that it is in has the room of one before,
    /// - 1 a copy of the head: for a retry, and for a connection that turns out to be closed,
    /// - 1 the trace's headers.
    const MOST: u64 = 12;
    /// As measured, with the case of headers' names kept: those of the request and those of the response are in their
    /// extensions.
    const MOST_WITH_CASE: u64 = 14;

    const GET: &[u8] = b"GET /users/7 HTTP/1.1\r\nHost: web\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n";

    async fn read_head(stream: &mut TcpStream, buf: &mut [u8]) -> Option<(usize, usize)> {
        let mut len = 0;
        loop {
            if let Some(end) = buf[..len].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                return Some((end + 4, len));
            }
            match stream.read(&mut buf[len..]).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => len += read,
            }
        }
    }

    /// An endpoint that answers each request with 1 KiB.
    async fn endpoint() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = [HEAD, &[b'x'; 1024]].concat();
            let mut buf = vec![0; 4096];
            while read_head(&mut stream, &mut buf).await.is_some() {
                stream.write_all(&answer).await.unwrap();
            }
        });
        addr
    }

    async fn exchange(stream: &mut TcpStream, buf: &mut [u8], times: u64) {
        for _ in 0..times {
            stream.write_all(GET).await.unwrap();
            let (head, mut len) = read_head(stream, buf).await.unwrap();
            assert!(buf.starts_with(b"HTTP/1.1 200 OK\r\n"));
            while len < head + 1024 {
                len += stream.read(&mut buf[len..]).await.unwrap();
            }
            assert_eq!(len, head + 1024);
        }
    }

    /// Allocations for each request; `preserves` the case of headers' names.
    fn through_the_proxy(preserves: bool) -> u64 {
        let runtime = runtime();
        let (mut stream, mut buf) = runtime.block_on(async {
            let dtab = format!("/svc => /$/inet/127.0.0.1/{}", endpoint().await.port());
            let client = ClientConfig { preserve_header_case: preserves, ..ClientConfig::default() };
            let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).connect(HttpConnect::new(client)).proxy(true);
            let router = mesh.build().unwrap().router(HeaderToken::host("/svc".parse().unwrap()));
            let addr = ([127, 0, 0, 1], 0).into();
            let config = ServerConfig { addr, preserve_header_case: preserves, ..ServerConfig::default() };
            let server = Server::bind(config).unwrap();
            let addr = server.local_addr();
            tokio::spawn(server.serve(Svc::new(router), std::future::pending()));
            (TcpStream::connect(addr).await.unwrap(), vec![0; 4096])
        });
        runtime.block_on(exchange(&mut stream, &mut buf, WARM_UP));
        let info = allocation_counter::measure(|| runtime.block_on(exchange(&mut stream, &mut buf, COUNTED)));
        println!("{} allocations, {} bytes", info.count_total / COUNTED, info.bytes_total / COUNTED);
        info.count_total / COUNTED
    }

    #[test]
    fn a_request_through_the_proxy_costs_no_more_than_it_did() {
        let each = through_the_proxy(false);
        assert!(each <= MOST, "{each} allocations for each request, which were {MOST}");
    }

    #[test]
    fn the_case_of_names_costs_no_more_than_it_did() {
        let each = through_the_proxy(true);
        assert!(each <= MOST_WITH_CASE, "{each} allocations for each request, which were {MOST_WITH_CASE}");
    }
}

/// What is kept of a destination that was asked for and is not any more: by the defaults of a file, with a name by files, and
/// four endpoints of which one has a connection that is kept. All of it on one thread but for who looks at files, whose part is not
/// counted, and the endpoints.
#[cfg(feature = "config")]
mod idle {
    use std::{
        io::{Read, Write},
        net::SocketAddr,
        ops::Range,
        thread,
    };

    use linkerd_core::{config::Config, http::Server, telemetry::Registry};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    const BEFORE: usize = 64;
    const IDLE: usize = 512;
    /// As measured without optimisation, and a little: tables grow at some time, and files are looked at by others. It was 53,800
    /// while idle connections did not rest. It may fall, and is lowered then.
    const MOST: i64 = 25_000;

    /// Endpoints that answer the first request of each connection.
    fn endpoint() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                kept.push(stream);
            }
        });
        addr
    }

    async fn ask(stream: &mut TcpStream, names: Range<usize>) {
        let mut buf = [0; 1024];
        for name in names {
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: w{name}\r\n\r\n").as_bytes()).await.unwrap();
            let read = stream.read(&mut buf).await.unwrap();
            assert!(buf.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&buf[..read]));
        }
        // Until its connections rest.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(5)).await;
        tokio::time::resume();
    }

    #[test]
    fn an_idle_destination_keeps_no_more_than_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let replicas: String = (0..4).map(|_| endpoint().to_string().replace(':', " ") + "\n").collect();
        for name in 0..BEFORE + IDLE {
            std::fs::write(dir.path().join(format!("w{name}")), &replicas).unwrap();
        }
        let text = format!(
            "namers: [{{kind: io.l5d.fs, rootDir: '{}'}}]\nrouters:\n- protocol: http\n  dtab: /svc => /#/io.l5d.fs\n  \
             servers: [{{port: 0}}]\n",
            dir.path().display()
        );
        let runtime = runtime();
        let (_plan, mut stream) = runtime.block_on(async {
            let plan = Config::parse("f", &text).unwrap().build(&Registry::new()).unwrap();
            let server = Server::bind(plan.routers[0].servers[0].clone()).unwrap();
            let addr = server.local_addr();
            tokio::spawn(server.serve(plan.routers[0].service(), std::future::pending()));
            (plan, TcpStream::connect(addr).await.unwrap())
        });
        runtime.block_on(ask(&mut stream, 0..BEFORE));
        let info = allocation_counter::measure(|| runtime.block_on(ask(&mut stream, BEFORE..BEFORE + IDLE)));
        let idle = i64::try_from(IDLE).unwrap();
        let (bytes, pieces) = (info.bytes_current / idle, info.count_current / idle);
        println!("{bytes} bytes in {pieces} pieces");
        assert!(bytes <= MOST, "{bytes} bytes of each, which were {MOST}");
        assert!(bytes > 1000, "{bytes} bytes of each: nothing was counted");
    }
}
