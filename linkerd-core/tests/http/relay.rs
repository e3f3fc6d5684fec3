//! What passes through the proxy, and what does not.

use super::peers::{Backend, through};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn names(headers: &[(String, String)]) -> Vec<&str> {
    let mut names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_get_arrives_with_these_headers_and_no_others() {
    let (addr, seen) = Backend::answering([OK]).await;
    let (mut client, _proxy) = through(addr).await;
    let rsp = client.ask("GET /a%2Fb?c=d HTTP/1.1\r\nHost: web\r\nX-One: 1\r\nX-One: 2\r\n\r\n").await;
    assert_eq!(rsp.first, "HTTP/1.1 200 OK");
    assert_eq!(rsp.text(), "ok");
    assert_eq!(names(&rsp.headers), ["content-length", "date", "via"]);
    assert_eq!(rsp.get("via"), Some("1.1 linkerd"));
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].first, "GET /a%2Fb?c=d HTTP/1.1");
    assert_eq!(names(&seen[0].headers), ["content-length", "host", "via", "x-one", "x-one"]);
    assert_eq!(seen[0].get("content-length"), Some("0"));
    assert_eq!(seen[0].all("x-one"), ["1", "2"]);
}
