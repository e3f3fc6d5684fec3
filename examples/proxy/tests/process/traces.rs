//! Telemeters of traces: the log, and the page of the last requests.

use std::{collections::HashMap, net::SocketAddr};

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming, client, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Folder, Linkerd, SIMPLE, eventually, server};

/// A proxy for `web` with these telemeters.
async fn start(telemeters: &str, web: SocketAddr) -> Linkerd {
    let folder = Folder::new();
    folder.list("web", &[web]);
    Linkerd::start(&folder, &SIMPLE.replace("- kind: io.l5d.prometheus\n", telemeters)).await
}

#[tokio::test]
async fn the_log_and_the_page_show_what_is_sampled_at_their_rates() {
    let web = server("web").await;
    let telemeters = "\
- {kind: io.l5d.tracelog, level: WARNING}
- {kind: io.l5d.recentRequests, sampleRate: 0, capacity: 2}
";
    let linkerd = start(telemeters, web.addr()).await;
    assert_eq!(linkerd.get("web").await.status, 200);
    let line = linkerd.logged("GET trace=").await;
    assert!(line.contains(" WARN ") && line.contains("kind=client"), "{line}");
    let line = linkerd.logged("http /svc/web trace=").await;
    let served = format!("service=\"127.0.0.1/{}\"", linkerd.servers[0].port());
    assert!(line.contains(&served) && line.contains("namer.success"), "{line}");
    assert_eq!(linkerd.json("/requests.json").await, serde_json::json!([]), "none of those that the log decided about");

    let sampled = [("l5d-sample", "1.0")];
    for host in ["web", "none", "web"] {
        linkerd.get_with(host, &sampled).await;
    }
    let rows = linkerd.json("/requests.json").await;
    let rows = rows.as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row["service"].as_str(), row["status"].as_str())).collect();
    assert_eq!(shown, [(Some("/svc/web"), Some("200")), (Some("/svc/none"), Some("502"))], "two at most");
    assert_eq!(rows[0]["address"], web.addr().to_string());
    assert_eq!(rows[0]["client"], "/#/io.l5d.fs/web");
    assert!(rows[0]["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    let trace = rows[0]["trace"].as_str().unwrap();
    eventually("both spans of it in the log", async || {
        let log = linkerd.log();
        (log.iter().filter(|line| line.contains(trace)).count() == 2).then_some(())
    })
    .await;
    let page = linkerd.page("/requests").await;
    assert_eq!((page.status.as_u16(), &page.headers["content-type"]), (200, &"text/html".parse().unwrap()));
    assert!(page.body.contains(">/svc/web</td><td class=\"free\">/#/io.l5d.fs/web</td>"), "{}", page.body);
}

#[tokio::test]
async fn a_level_that_is_off_logs_nothing_and_two_pages_are_refused() {
    let web = server("web").await;
    let linkerd = start("- {kind: io.l5d.tracelog, level: off}\n", web.addr()).await;
    assert_eq!(linkerd.get("web").await.status, 200);
    assert_eq!(linkerd.page("/requests").await.status, 404);
    assert!(!linkerd.log().iter().any(|line| line.contains("trace=")));

    let folder = Folder::new();
    let twice = "- {kind: io.l5d.recentRequests, sampleRate: 1}\n".repeat(2);
    folder.write("twice.yaml", &SIMPLE.replace("- kind: io.l5d.prometheus\n", &twice));
    let output = folder.run(&["-validate", "twice.yaml"]).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("there are two admin pages at /requests"), "{text}");
}

/// A service that asks `next`, and hands on no more of its context than the headers of it.
async fn service(next: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |req: Request<Incoming>| async move {
                let stream = TcpStream::connect(next).await.unwrap();
                let (mut sender, conn) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(conn);
                let mut asked = Request::get("/").header(HOST, "web").body(Empty::<Bytes>::new()).unwrap();
                let context = req.headers().iter().filter(|(name, _)| name.as_str().starts_with("l5d-ctx-"));
                asked.headers_mut().extend(context.map(|(name, value)| (name.clone(), value.clone())));
                let rsp = sender.send_request(asked).await?;
                Ok::<_, hyper::Error>(Response::builder().status(rsp.status()).body(Full::<Bytes>::default()).unwrap())
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

/// The spans in the log of a proxy, once there are two: by the id of each, its trace, its parent and its kind.
async fn spans(linkerd: &Linkerd) -> HashMap<String, [String; 3]> {
    let two = async || {
        let log = linkerd.log();
        let spans = log.iter().filter(|line| line.contains(" trace=")).map(|line| {
            let field = |name: &str| {
                let words = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                words.unwrap_or_default().to_owned()
            };
            (field("span"), ["trace", "parent", "kind"].map(field))
        });
        let spans: HashMap<_, _> = spans.collect();
        (spans.len() == 2).then_some(spans)
    };
    eventually("two spans", two).await
}

#[tokio::test]
async fn two_services_behind_two_proxies_each_are_one_chain_of_eight_spans() {
    let log = "- {kind: io.l5d.tracelog, sampleRate: 1}\n";
    let last = server("web").await;
    let fourth = start(log, last.addr()).await;
    let third = start(log, fourth.servers[0]).await;
    let first_service = service(third.servers[0]).await;
    let second = start(log, first_service).await;
    let first = start(log, second.servers[0]).await;
    assert_eq!(first.get("web").await.status, 200);

    let mut all = HashMap::new();
    for linkerd in [&first, &second, &third, &fourth] {
        all.extend(spans(linkerd).await);
    }
    assert_eq!(all.len(), 8, "{all:#?}");
    let roots: Vec<_> = all.iter().filter(|(_, [_, parent, _])| !all.contains_key(parent)).collect();
    let [(root, [trace, _, _])] = roots[..] else { panic!("one root: {all:#?}") };
    let (mut at, mut kinds) = (root, Vec::new());
    for _ in 0..8 {
        let [in_trace, _, kind] = &all[at];
        assert_eq!(in_trace, trace);
        kinds.push(kind.as_str());
        match all.iter().find(|(id, [_, parent, _])| parent == at && *id != at) {
            Some((next, _)) => at = next,
            None => break,
        }
    }
    assert_eq!(kinds, ["server", "client"].repeat(4), "{all:#?}");
}
