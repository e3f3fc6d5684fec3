//! The context of a request in a service that is built of the engine's own parts.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, header::HOST};
use linkerd_core::{
    Body, Client, Error, ErrorKind, Mesh, Svc,
    context::{ClientLayer, Context, ServerLayer},
    http::ServerConfig,
    identify::HeaderToken,
    retry::limit::Criticality,
    span::{Recent, SpanKind, SpanLayer, Tracer},
};
use tower::{Layer, ServiceExt, service_fn};

use super::peers::{Backend, Proxy, Wire, proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn client(dtab: &str) -> Client {
    let mesh = Mesh::builder().dtab(dtab.parse().unwrap()).build().unwrap();
    mesh.router(HeaderToken::host("/svc".parse().unwrap()))
}

/// A service that sends one request to the name `b` for each that it gets, and knows nothing of contexts itself.
fn service(spans: &SpanLayer, client: Client) -> Proxy {
    let client = ClientLayer::new().layer(client);
    let handler = service_fn(move |_: Request<Body>| {
        let req = Request::builder().header(HOST, "b").body(Body::empty()).unwrap();
        client.clone().oneshot(req)
    });
    let svc = ServerLayer::new().layer(handler).map_response(|rsp: Response<_>| rsp.map(Body::new));
    proxy(ServerConfig { via: false, ..ServerConfig::default() }, Svc::new(spans.layer(svc)))
}

#[tokio::test]
async fn a_service_on_the_mesh_is_a_link_of_the_chain_and_heeds_rules_and_deadlines() {
    let recent = Arc::new(Recent::default());
    let spans = SpanLayer::new(Tracer::new(recent.clone()), "app");
    let (origin, seen) = Backend::answering([OK]).await;
    let app = service(&spans, client("/svc => /$/fail"));
    let mut wire = Wire::connect(app.addr).await;
    let rules = format!("l5d-dtab: /svc/b => /$/inet/127.0.0.1/{}\r\n", origin.port());
    let context = "l5d-ctx-trace: AAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAAY=\r\nl5d-ctx-key-tenant: acme\r\n";
    let rsp = wire.ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{rules}{context}\r\n")).await;
    assert_eq!(rsp.status(), 200, "{rsp:?}");
    let got = seen.lock().unwrap()[0].clone();
    assert_eq!(got.get("l5d-ctx-key-tenant"), Some("acme"));
    assert_eq!(got.all("l5d-ctx-dtab").len(), 1);
    assert_eq!(got.all("l5d-ctx-trace").len(), 1);
    let all = recent.spans();
    let find = |kind| all.iter().find(|span| span.kind == kind).unwrap();
    let (server, client) = (find(SpanKind::Server), find(SpanKind::Client));
    assert_eq!((server.parent(), client.parent()), (Some(1), Some(server.id.span())));
    assert_eq!(got.get("l5d-ctx-trace").unwrap(), client.id.encode().to_str().unwrap());
    assert_eq!((server.id.trace(), all.len()), (3, 2));

    let late = "l5d-ctx-deadline: 1500000000000000000 1500000000000000001\r\n";
    let rsp = wire.ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{rules}{late}\r\n")).await;
    assert_eq!(rsp.status(), 503, "{rsp:?}");
    assert_eq!(seen.lock().unwrap().len(), 1, "nothing is sent for an answer that nobody waits for");
}

#[tokio::test]
async fn a_context_that_begins_here_is_heeded_as_one_that_came() {
    let (origin, seen) = Backend::answering([OK]).await;
    let client = ClientLayer::new().layer(client("/svc => /$/fail"));
    let send = || {
        let req = Request::builder().header(HOST, "b").body(Body::empty()).unwrap();
        client.clone().oneshot(req)
    };
    let rules = format!("/svc/b => /$/inet/127.0.0.1/{}", origin.port()).parse().unwrap();
    let cx = Context::current().with_dtab(&rules).unwrap().with_criticality(Criticality::Sheddable).unwrap();
    assert_eq!(cx.clone().scope(send()).await.unwrap().status(), 200);
    assert_eq!(seen.lock().unwrap()[0].get("l5d-ctx-criticality"), Some("sheddable"));
    let error: Error = cx.expiring_after(Duration::ZERO).unwrap().scope(send()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
}

#[tokio::test]
async fn a_class_among_the_extensions_reaches_the_next_hop() {
    let (origin, seen) = Backend::answering([OK]).await;
    let client = client(&format!("/svc => /$/inet/127.0.0.1/{}", origin.port()));
    let send = async |class: Option<Criticality>, header: Option<&str>| {
        let mut req = Request::builder().header(HOST, "b").body(Body::empty()).unwrap();
        req.extensions_mut().extend(
            class
                .map(|class| {
                    let mut one = http::Extensions::new();
                    one.insert(class);
                    one
                })
                .unwrap_or_default(),
        );
        if let Some(header) = header {
            req.headers_mut().insert("l5d-ctx-criticality", header.parse().unwrap());
        }
        client.send(req).await.unwrap();
        let seen = seen.lock().unwrap();
        seen.last().unwrap().all("l5d-ctx-criticality").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(send(Some(Criticality::CriticalPlus), None).await, ["critical_plus"]);
    assert_eq!(send(Some(Criticality::Sheddable), Some("critical")).await, ["sheddable"]);
    assert_eq!(send(None, Some("3")).await, ["3"], "as it came");
    assert!(send(None, None).await.is_empty());
}
