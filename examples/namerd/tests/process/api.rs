//! The HTTP interface and the pages of a running program.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};

use crate::harness::{Conn, Folder, LONG, Namerd, SIMPLE, eventually};

#[tokio::test]
async fn a_table_is_made_changed_watched_and_taken_back() {
    let folder = Folder::new();
    let namerd = Namerd::start(&folder, &format!("{SIMPLE}roots: [/svc]\n")).await;
    namerd.ask("POST /api/1/dtabs/web", &[("l5d-reason", "first")], "/svc => /$/inet/127.1").await.expect(204);
    let first = namerd.ask("GET /api/1/dtabs/web", &[], "").await.expect(200);
    assert_eq!(first.json()[0]["prefix"], "/svc");
    let tag = first.header("etag");

    let mut watching = Conn::open(namerd.interfaces[0]).await;
    let mut watched = watching.begin("GET /api/1/dtabs/web?watch=true", &[], "").await.into_body();
    let mut next = async || {
        let frame = timeout(LONG, watched.frame()).await.expect("a change").unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    assert!(next().await.contains("/$/inet/127.1"));
    namerd.ask("PUT /api/1/dtabs/web", &[("if-match", &tag)], "/svc => /$/inet/127.2").await.expect(204);
    assert!(next().await.contains("/$/inet/127.2"));
    namerd.ask("PUT /api/1/dtabs/web", &[("if-match", &tag)], "/svc => /$/inet/127.3").await.expect(412);
    namerd.ask("PUT /api/1/dtabs/web", &[], "/svc =>").await.expect(400);

    let history = namerd.ask("GET /api/1/history/web", &[], "").await.expect(200).json();
    assert_eq!((history[1]["seq"].as_u64(), history[1]["why"].as_str()), (Some(1), Some("first")), "{history}");
    assert!(history[0]["who"].as_str().unwrap().starts_with("127.0.0.1:"), "{history}");
    let diff = namerd.ask("GET /api/1/diff/web?from=1&to=2", &[], "").await.expect(200).body;
    assert!(diff.contains("127.1") && diff.contains("127.2"), "{diff}");
    let check = namerd.ask("POST /api/1/check/web", &[], "/svc => /#/nothing; /x => /svc").await.expect(200).json();
    assert!(check["warnings"].as_array().is_some_and(|all| all.len() >= 2), "{check}");
    let plan = "POST /api/1/plan/web?names=/svc/80";
    let plan = namerd.ask(plan, &[], "/svc => /$/inet/127.9").await.expect(200).json();
    assert_eq!(plan["names"][0]["name"], "/svc/80", "{plan}");

    namerd.ask("DELETE /api/1/dtabs/web", &[], "").await.expect(204);
    namerd.ask("GET /api/1/dtabs/web", &[], "").await.expect(404);
    namerd.ask("POST /api/1/rollback/web?to=1", &[], "").await.expect(204);
    let back = namerd.ask("GET /api/1/dtabs/web", &[], "").await.expect(200);
    assert_eq!(back.json(), first.json());
}

#[tokio::test]
async fn the_pages_show_namespaces_and_what_is_in_use() {
    let folder = Folder::new();
    let namerd = Namerd::start(&folder, SIMPLE).await;
    let (mut one, mut other) = (Conn::open(namerd.interfaces[0]).await, Conn::open(namerd.interfaces[0]).await);
    let _one = one.begin("GET /api/1/dtabs/default?watch=true", &[], "").await;
    let _other = other.begin("GET /api/1/dtabs/default?watch=true", &[], "").await;
    let page = namerd.page("/").await.expect(200).body;
    assert!(page.contains("<title>namerd admin</title>"), "{page}");
    assert!(page.contains("<a href=\"/dtab/default\">default</a>"), "{page}");
    assert!(page.contains("<tr><th>watches of tables</th><td>2</td></tr>"), "{page}");
    assert!(page.contains("<th>most watches of a peer</th><td>2, of 127.0.0.1</td>"), "{page}");
    let metrics = namerd.page("/admin/metrics.json").await.expect(200).json();
    assert_eq!(metrics["namerd/watches/dtabs"], 2.0, "{metrics}");
    assert_eq!(metrics["namerd/namespaces"], 1.0, "{metrics}");
    namerd.page("/dtab/default").await.expect(200);
    namerd.page("/dtab/nothing").await.expect(404);
}

/// `web` writes a part of `all`, and may not read the whole.
const DIVIDED: &str = "\
admin: {port: 0}
storage:
  kind: io.l5d.inMemory
  namespaces: {base: '/svc => /$/inet/127.0.0.1', team/web: '/x => /y'}
compose:
- {namespace: all, parts: [{fragments: base}, {fragments: 'team/*'}]}
access:
- {token: of-web, label: web, role: write, namespaces: [team/web]}
- {token: of-ops, label: ops, role: read}
interfaces:
- {kind: io.l5d.httpController, port: 0}
";

#[tokio::test]
async fn who_writes_a_part_hears_how_many_names_of_the_whole_lose_their_endpoints() {
    let folder = Folder::new();
    let namerd = Namerd::start(&folder, DIVIDED).await;
    let [web, ops] = ["Bearer of-web", "Bearer of-ops"].map(|token| ("authorization", token));
    let mut held = Vec::new();
    for port in [80, 81, 82] {
        let mut conn = Conn::open(namerd.interfaces[0]).await;
        let mut watched =
            conn.begin(&format!("GET /api/1/bind/all?path=/svc/{port}&watch=true"), &[ops], "").await.into_body();
        let first = timeout(LONG, watched.frame()).await.expect("it is bound");
        assert!(first.unwrap().is_ok());
        held.push((conn, watched));
    }
    namerd.ask("GET /api/1/dtabs/all", &[web], "").await.expect(403);

    let table = "/svc/80 => !; /svc/81 => !; /svc/82 => /$/inet/127.0.0.2/82";
    let warning = "2 names elsewhere lose all endpoints, 1 moves; you may not read them";
    let plan = namerd.ask("POST /api/1/plan/team/web", &[web], table).await.expect(200).json();
    let elsewhere = serde_json::json!({"moved": 3, "lost": 2, "partly": 0});
    assert_eq!(
        (&plan["elsewhere"], &plan["warnings"][0], plan["looked_at"].as_u64()),
        (&elsewhere, &warning.into(), Some(0))
    );
    assert!(!plan.to_string().contains("/svc/8"), "{plan}");
    let plan = namerd.ask("POST /api/1/plan/team/web", &[ops], table).await.expect(200).json();
    assert_eq!((plan["names"].as_array().map(Vec::len), plan.get("elsewhere")), (Some(3), None), "{plan}");

    // A write does not wait long for what becomes of names: on a machine that is busy that is not told each time.
    let told = eventually("the warning", async || {
        namerd.ask("PUT /api/1/dtabs/team/web", &[web], "/x => /y").await.expect(204);
        sleep(Duration::from_millis(50)).await;
        let written = namerd.ask("PUT /api/1/dtabs/team/web", &[web], table).await.expect(204);
        Some(written.header("warning")).filter(|told| told.contains(warning))
    });
    assert_eq!(told.await, format!("299 namerd \"{warning}\""));
    let history = namerd.ask("GET /api/1/history/all", &[ops], "").await.expect(200);
    assert_eq!(history.json()[0]["namespace"], "team/web");
    assert!(history.header("warning").contains("namespace all is made of base + team/*"), "{history:?}");
}
