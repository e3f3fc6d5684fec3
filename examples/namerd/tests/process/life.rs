//! How it ends, and what is left when it is killed.

use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::harness::{Conn, Folder, LONG, Namerd, SIMPLE};

#[tokio::test]
async fn a_signal_ends_it_though_watches_are_open() {
    let folder = Folder::new();
    let mut namerd = Namerd::start(&folder, SIMPLE).await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut conn = Conn::open(namerd.interfaces[0]).await;
        let watched = conn.begin("GET /api/1/dtabs/default?watch=true", &[], "").await;
        connections.push((conn, watched));
    }
    namerd.signal("-TERM").await;
    assert!(namerd.ended().await.success());
    for (_conn, watched) in connections {
        // Cut off or ended, but not left open.
        let _ = timeout(LONG, watched.into_body().collect()).await.expect("the watch ends");
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_kill() {
    let folder = Folder::new();
    let config = "\
admin: {port: 0}
storage: {kind: io.l5d.fs, directory: tables}
history: {directory: history}
interfaces:
- {kind: io.l5d.httpController, port: 0}
";
    let mut namerd = Namerd::start(&folder, config).await;
    for n in 1..=5 {
        let (what, port) = (format!("PUT /api/1/dtabs/team/n{n}"), format!("/svc => /$/inet/127.1/{n}"));
        namerd.ask("POST /api/1/dtabs/x", &[], "/a => /b").await;
        namerd.ask(&what.replace("PUT", "POST"), &[("l5d-reason", "begin")], "/svc => /a").await.expect(204);
        namerd.ask(&what, &[], &port).await.expect(204);
    }
    namerd.ask("DELETE /api/1/dtabs/x", &[], "").await.expect(204);
    let before = namerd.ask("GET /api/1/dtabs/team/n3", &[], "").await.expect(200);
    let past = namerd.ask("GET /api/1/history/team/n3", &[], "").await.expect(200);
    namerd.signal("-KILL").await;
    assert!(!namerd.ended().await.success());

    let namerd = Namerd::start(&folder, config).await;
    let after = namerd.ask("GET /api/1/dtabs/team/n3", &[], "").await.expect(200);
    assert_eq!((after.json(), after.header("etag")), (before.json(), before.header("etag")));
    let list = namerd.ask("GET /api/1/dtabs", &[], "").await.expect(200).json();
    assert_eq!(list.as_array().map(Vec::len), Some(5), "{list}");
    assert_eq!(namerd.ask("GET /api/1/history/team/n3", &[], "").await.expect(200).json(), past.json());
    // The deleted one can be brought back, and the version from before still holds.
    namerd.ask("POST /api/1/rollback/x?to=1", &[], "").await.expect(204);
    let tag = before.header("etag");
    namerd.ask("PUT /api/1/dtabs/team/n3", &[("if-match", &tag)], "/svc => /b").await.expect(204);
    let past = namerd.ask("GET /api/1/history/team/n3", &[], "").await.expect(200).json();
    assert_eq!(past[0]["seq"], 3, "{past}");
}
