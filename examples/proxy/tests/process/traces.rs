//! Telemeters of traces: the log, and the page of the last requests.

use crate::harness::{Folder, Linkerd, SIMPLE, eventually, server};

/// A proxy for `web` with these telemeters.
async fn start(telemeters: &str, web: std::net::SocketAddr) -> Linkerd {
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
