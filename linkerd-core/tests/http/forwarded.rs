//! `Forwarded`, as an endpoint sees it.

use linkerd_core::http::{ClientConfig, Forwarded, ForwardedLabel, ServerConfig};

use super::peers::{Backend, Message, Wire, endpoint, proxy};

/// What the endpoint sees of requests that come on two connections.
async fn seen(by: ForwardedLabel, for_: ForwardedLabel, req: &str) -> (Vec<Message>, String) {
    let (addr, seen) = Backend::answering(["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let forwarded = Some(Forwarded { by, for_ });
    let proxy = proxy(ServerConfig { forwarded, ..ServerConfig::default() }, endpoint(addr, ClientConfig::default()));
    let mut port = String::new();
    for _ in 0..2 {
        let mut client = Wire::connect(proxy.addr).await;
        port = client.stream.local_addr().unwrap().port().to_string();
        for _ in 0..2 {
            assert_eq!(client.ask(req).await.status(), 200);
        }
    }
    let seen = seen.lock().unwrap().clone();
    (seen, port)
}

#[tokio::test]
async fn a_value_is_added_behind_those_that_came() {
    let req = "GET / HTTP/1.1\r\nHost: web\r\nForwarded: for=1.2.3.4\r\nforwarded: for=2\r\n\r\n";
    let gateway = ForwardedLabel::Fixed("gw".to_owned());
    let (seen, port) = seen(gateway, ForwardedLabel::IpPort, req).await;
    let ours = format!("by=_gw;for=\"127.0.0.1:{port}\";host=web");
    assert_eq!(seen[3].all("forwarded"), ["for=1.2.3.4", "for=2", &ours]);
}

#[tokio::test]
async fn the_scheme_is_known_of_absolute_targets() {
    let req = "GET http://web/p HTTP/1.1\r\nHost: other\r\n\r\n";
    let (seen, _) = seen(ForwardedLabel::Ip, ForwardedLabel::Ip, req).await;
    assert_eq!(seen[0].all("forwarded"), ["by=127.0.0.1;for=127.0.0.1;host=web;proto=http"]);
}

#[tokio::test]
async fn what_is_random_for_a_connection_lasts_as_long_as_it() {
    let label = ForwardedLabel::ConnectionRandom;
    let (seen, _) = seen(label, ForwardedLabel::Ip, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| seen[i].get("forwarded").unwrap());
    assert!(a == b && c == d && a != c, "{a} {b} {c} {d}");
}
