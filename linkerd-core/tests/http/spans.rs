//! Spans of whole requests, over several hops on loopback sockets.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response, header::HOST};
use linkerd_core::{
    Body, BoxError, Mesh, Svc,
    context::{ClientLayer, ServerLayer},
    http::{ClientConfig, Propagation, RequestContext, ServerConfig, TraceFormat},
    identify::HeaderToken,
    span::{Recent, Span, SpanKind, SpanLayer, SpanSink, Tracer},
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};

use super::peers::{Backend, Proxy, Wire, endpoint, proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy in front of one endpoint for every name, in this format in and out.
fn hop(tracer: &Tracer, label: &str, to: SocketAddr, config: ServerConfig) -> Proxy {
    let dtab = format!("/svc/* => /$/inet/127.0.0.1/{}", to.port());
    let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).proxy(true).build().unwrap();
    let router = mesh.router(HeaderToken::host("/svc".parse().unwrap()));
    proxy(config, Svc::new(SpanLayer::new(tracer.clone(), label).layer(router)))
}

/// A service that answers once the next one has, and knows nothing of traces.
async fn service(next: Option<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let next = next.map(|addr| ClientLayer::new().layer(endpoint(addr, ClientConfig::default())));
    let handler = service_fn(move |_req: Request<hyper::body::Incoming>| {
        let next = next.clone();
        async move {
            if let Some(next) = next {
                let req = Request::builder().header(HOST, "b").body(Body::empty())?;
                next.oneshot(req).await?;
            }
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    let app = ServerLayer::new().layer(handler);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let app = app.clone();
            let app = hyper::service::service_fn(move |req| app.clone().oneshot(req));
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, app));
        }
    });
    addr
}

/// From the first span to the last, each the parent of the next.
fn chain(recent: &Recent) -> Vec<Arc<Span>> {
    let mut left = recent.spans();
    let mut chain: Vec<Arc<Span>> = Vec::new();
    for _ in 0..left.len() {
        let parent = chain.last().map(|span| span.id.span());
        let next: Vec<_> = (0..left.len()).filter(|&i| left[i].parent() == parent).collect();
        assert_eq!(next.len(), 1, "below {parent:x?} of {left:#?}");
        chain.push(left.remove(next[0]));
    }
    chain
}

async fn ask(proxy: &Proxy, headers: &str) -> u16 {
    let req = format!("GET /p?q=1 HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    Wire::connect(proxy.addr).await.ask(req).await.status()
}

#[tokio::test]
async fn two_services_behind_two_proxies_each_are_one_trace_of_eight_spans() {
    let formats = [TraceFormat::W3c, TraceFormat::B3Single];
    for propagation in [Propagation::DEFAULT, Propagation::ZIPKIN, Propagation::new(&formats, &formats).unwrap()] {
        two_services(propagation).await;
    }
}

async fn two_services(propagation: Propagation) {
    use SpanKind::{Client, Server};

    let recent = Arc::new(Recent::default());
    let tracer = Tracer::new(recent.clone());
    let config = || ServerConfig { propagation, ..ServerConfig::default() };
    let b = service(None).await;
    let b_in = hop(&tracer, "b-in", b, config());
    let a_out = hop(&tracer, "a-out", b_in.addr, config());
    let a = service(Some(a_out.addr)).await;
    let a_in = hop(&tracer, "a-in", a, config());
    let edge = hop(&tracer, "edge", a_in.addr, config());
    assert_eq!(ask(&edge, "").await, 200, "{propagation:?}");

    let chain = chain(&recent);
    let names: Vec<_> = chain.iter().map(|span| (span.kind, span.name.as_str())).collect();
    assert_eq!(
        names,
        [
            (Server, "edge /svc/a"),
            (Client, "GET"),
            (Server, "a-in /svc/a"),
            (Client, "GET"),
            (Server, "a-out /svc/b"),
            (Client, "GET"),
            (Server, "b-in /svc/b"),
            (Client, "GET"),
        ]
    );
    assert!(chain.iter().all(|span| span.id.trace() == chain[0].id.span()));
    assert!(chain.windows(2).all(|pair| pair[0].begun <= pair[1].begun && pair[0].took >= pair[1].took));

    let (server, client) = (&chain[0], &chain[1]);
    assert_eq!(server.service, format!("127.0.0.1/{}", edge.addr.port()));
    assert_eq!((server.local, client.peer), (Some(edge.addr), Some(a_in.addr)));
    assert_eq!((server.endpoint, client.endpoint), (Some(a_in.addr), None));
    let id = format!("/$/inet/127.0.0.1/{}", a_in.addr.port());
    let expected = [
        ("router.label", "edge"),
        ("http.method", "GET"),
        ("http.uri", "/p"),
        ("dtab.base", &format!("/svc/*=>{id}")),
        ("dtab.local", ""),
        ("service", "/svc/a"),
        ("client", &id),
        ("residual", "/"),
        ("http.status_code", "200"),
    ];
    for (tag, value) in expected {
        assert_eq!(server.tag(tag), Some(value), "{tag}");
    }
    assert_eq!(server.events.iter().map(|(_, event)| *event).collect::<Vec<_>>(), ["namer.success"]);
    assert_eq!(client.service, id[1..]);
    assert_eq!((client.tag("http.status_code"), client.tag("l5d.success")), (Some("200"), Some("1.0")));
}

#[tokio::test]
async fn between_formats_the_spans_are_still_one_chain() {
    const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
    const SPAN: &str = "a2fb4a1d1a96d312";
    let given = |format| match format {
        TraceFormat::W3c => format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n"),
        TraceFormat::B3 => format!("X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {SPAN}\r\nX-B3-Sampled: 1\r\n"),
        _ => "l5d-ctx-trace: ovtKHRqW0xIAAAAAAAAAAUhIWjlTu2EkAAAAAAAAAAZGOsNcn2QTrQ==\r\n".to_owned(),
    };
    let formats = [TraceFormat::W3c, TraceFormat::B3, TraceFormat::L5d];
    for from in formats {
        for to in formats {
            let recent = Arc::new(Recent::default());
            let tracer = Tracer::new(recent.clone());
            let config = |read, write| {
                let propagation = Propagation::new(&[read], &[write]).unwrap();
                ServerConfig { propagation, ..ServerConfig::default() }
            };
            let (origin, _) = Backend::answering([OK]).await;
            let second = hop(&tracer, "second", origin, config(to, from));
            let first = hop(&tracer, "first", second.addr, config(from, to));
            assert_eq!(ask(&first, &given(from)).await, 200);
            let mut parent = 0xa2fb_4a1d_1a96_d312;
            let spans = recent.spans();
            for _ in 0..4 {
                let span = spans.iter().find(|span| span.parent() == Some(parent));
                let span = span.unwrap_or_else(|| panic!("{from:?} to {to:?}: below {parent:x} of {spans:#?}"));
                assert_eq!(span.id.trace_high(), Some(0x463a_c35c_9f64_13ad));
                assert_eq!(span.id.trace(), 0x4848_5a39_53bb_6124);
                parent = span.id.span();
            }
            assert_eq!(spans.len(), 4);
        }
    }
}

#[tokio::test]
async fn whether_to_record_is_decided_once() {
    for (rate, headers, expected) in [
        (0.0, "", 0),
        (0.0, "l5d-sample: 1.0\r\n", 4),
        (1.0, "l5d-sample: 0\r\n", 0),
        (1.0, "", 4),
        // What the caller decided stands.
        (1.0, "l5d-ctx-trace: AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAI=\r\n", 0),
        (0.0, "l5d-ctx-trace: AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=\r\n", 4),
    ] {
        let recent = Arc::new(Recent::default());
        let tracer = Tracer::new(recent.clone());
        let (origin, seen) = Backend::answering([OK]).await;
        // The second one would decide otherwise.
        let second = hop(&tracer.clone().sample_rate(1.0 - rate), "second", origin, ServerConfig::default());
        let first = hop(&tracer.sample_rate(rate), "first", second.addr, ServerConfig::default());
        assert_eq!(ask(&first, headers).await, 200);
        assert_eq!(recent.spans().len(), expected, "{rate} {headers}");
        assert!(seen.lock().unwrap()[0].get("l5d-sample").is_none());
    }
}

#[tokio::test]
async fn each_sink_has_its_own_rate_of_what_is_decided_here_and_all_of_what_was() {
    const TRACES: usize = 400;
    let sinks = [0.0, 0.3, 0.6].map(|rate| (rate, Arc::new(Recent::new((2 * TRACES).try_into().unwrap()))));
    let tracers = sinks.iter().map(|(rate, sink)| Tracer::new(sink.clone()).sample_rate(*rate));
    let tracer = Tracer::all(tracers).unwrap();
    assert!(Tracer::all([]).is_none());
    let svc = SpanLayer::new(tracer, "x").layer(service_fn(|req: Request<()>| async move {
        let trace = req.extensions().get::<RequestContext>().unwrap().trace.unwrap();
        Ok::<_, BoxError>(Response::new(trace.sampled()))
    }));
    let mut recorded = 0;
    for _ in 0..TRACES {
        recorded += usize::from(svc.clone().oneshot(Request::new(())).await.unwrap().body() == &Some(true));
    }
    let traces = |sink: &Recent| sink.spans().iter().map(|span| span.id.trace()).collect::<HashSet<_>>();
    let [none, few, many] = sinks.each_ref().map(|(_, sink)| traces(sink));
    assert_eq!((none.len(), many.len()), (0, recorded), "the next hop is told what any of them has");
    assert!(few.is_subset(&many) && (60..180).contains(&few.len()) && (180..300).contains(&many.len()));
    for sample in ["1.0", "0"] {
        svc.clone().oneshot(Request::builder().header("l5d-sample", sample).body(()).unwrap()).await.unwrap();
    }
    let more = sinks.each_ref().map(|(_, sink)| sink.spans().len());
    assert_eq!(more, [1, few.len() + 1, many.len() + 1]);
}

#[tokio::test]
async fn each_attempt_is_a_span_below_the_servers() {
    let recent = Arc::new(Recent::default());
    let (origin, _) =
        Backend::answering(["HTTP/1.1 503 No\r\nContent-Length: 0\r\nl5d-retryable: true\r\n\r\n", OK]).await;
    let edge = hop(&Tracer::new(recent.clone()), "edge", origin, ServerConfig::default());
    assert_eq!(ask(&edge, "").await, 200);
    let spans = recent.spans();
    let (clients, servers): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind == SpanKind::Client);
    assert_eq!((clients.len(), servers.len()), (2, 1), "{spans:#?}");
    assert!(clients.iter().all(|span| span.parent() == Some(servers[0].id.span())));
    assert_eq!(clients.iter().map(|span| span.tag("http.status_code").unwrap()).collect::<Vec<_>>(), ["503", "200"]);
    assert_eq!(clients[0].count("l5d.failure") + clients[0].count("l5d.retryable"), 1);
    assert_eq!((servers[0].count("finagle.retry"), servers[0].count("namer.success")), (1, 2));
}

#[tokio::test]
async fn what_fails_says_where_and_what_is_cancelled_ends_too() {
    let recent = Arc::new(Recent::default());
    let tracer = Tracer::new(recent.clone());
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let edge = hop(&tracer, "edge", nobody, ServerConfig::default());
    assert_eq!(ask(&edge, "").await, 502);
    let spans = recent.spans();
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!(server.tag("http.status_code"), Some("502"));
    assert_eq!(server.tag("io.buoyant.router.Failure"), Some("ClientAcquisition"));
    assert!(
        spans.iter().any(|span| span.kind == SpanKind::Client && span.tag("error") == Some("connect")),
        "{spans:#?}"
    );

    let recent = Arc::new(Recent::default());
    let mut silent = Backend::new().await;
    let edge = hop(&Tracer::new(recent.clone()), "edge", silent.addr, ServerConfig::default());
    let mut client = Wire::connect(edge.addr).await;
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut conn = silent.accept().await;
    assert!(conn.head().await.is_some());
    drop(client);
    for _ in 0..500 {
        if recent.spans().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let errors: Vec<_> = recent.spans().iter().map(|span| span.tag("error").unwrap().to_owned()).collect();
    assert_eq!(errors, ["cancelled", "cancelled"]);
}

#[tokio::test]
async fn the_last_hundred_are_kept_and_no_more() {
    let recent = Recent::default();
    let sink = Arc::new(Recent::default());
    let spans = SpanLayer::new(Tracer::new(sink.clone()), "x");
    let svc = spans.layer(service_fn(|_: Request<()>| async { Ok::<_, BoxError>(Response::new(())) }));
    for i in 0..101 {
        let uri = format!("/{i}{}", "x".repeat(10_000));
        svc.clone().oneshot(Request::get(uri).body(()).unwrap()).await.unwrap();
    }
    let kept = sink.spans();
    assert_eq!(kept.len(), 100);
    assert!(kept[0].tag("http.uri").unwrap().starts_with("/1x") && kept[0].tag("http.uri").unwrap().len() == 512);
    for span in kept {
        recent.record(span);
    }
    assert_eq!(recent.spans().len(), 100);
}

#[tokio::test]
async fn without_a_layer_nothing_more_is_on_the_wire() {
    let (origin, seen) = Backend::answering([OK]).await;
    let dtab = format!("/svc/* => /$/inet/127.0.0.1/{}", origin.port());
    let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).build().unwrap();
    let router = mesh.router(HeaderToken::host("/svc".parse().unwrap()));
    let edge = proxy(ServerConfig::default(), Svc::new(router));
    assert_eq!(ask(&edge, "").await, 200);
    let seen = seen.lock().unwrap();
    let mut names: Vec<_> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "host", "l5d-ctx-trace", "l5d-reqid", "via"]);
    let id = HeaderMap::from_iter([(http::header::HOST, seen[0].get("l5d-ctx-trace").unwrap().parse().unwrap())]);
    assert_eq!(linkerd_core::http::TraceId::decode(&id[HOST]).unwrap().sampled(), None);
}
