//! Timers: where they are set, which one was over, and who may set them.

use serde_json::Value;

use crate::harness::{Folder, Linkerd, held};

const CONFIG: &str = "\
admin:
  port: 0
namers:
- kind: io.l5d.fs
  rootDir: disco
routers:
- protocol: http
  dtab: |
    /svc => /#/io.l5d.fs;
  service:
    totalTimeoutMs: 60000
  servers:
  - port: 0
    perRequestPolicy: {maxTimeoutMs: 50}
    errorDetail: true
";

#[tokio::test]
async fn each_timer_is_listed_with_its_place_and_the_one_that_was_over_is_named() {
    let folder = Folder::new();
    let backend = held().await;
    folder.list("web", &[backend.addr]);
    let linkerd = Linkerd::start(&folder, CONFIG).await;

    let listed = linkerd.json("/admin/timeouts.json").await;
    let timers = listed["timers"].as_array().unwrap();
    let timer = |name: &str| timers.iter().find(|timer| timer["timer"] == name).unwrap_or_else(|| panic!("{name}"));
    let total = timer("service.totalTimeoutMs");
    assert_eq!((&total["ms"], &total["source"]), (&60_000.into(), &"linkerd.yaml:11:21".into()), "{total}");
    assert_eq!((&total["key"], &total["ends"]), (&"routers[0].service.totalTimeoutMs".into(), &"total".into()));
    assert_eq!(
        (&timer("bindingTimeoutMs")["ms"], &timer("bindingTimeoutMs")["source"]),
        (&10_000.into(), &"default".into())
    );
    assert_eq!(
        (&timer("client.connectTimeout")["source"], &timer("l5d-timeout")["ms"]),
        (&"fixed".into(), &Value::Null)
    );
    assert!(linkerd.page("/admin/index.txt").await.body.contains("/admin/timeouts.json\n"));

    // Longer than it may be.
    let answer = linkerd.get_with("web", &[("l5d-timeout", "1h")]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.starts_with("exceeded 50.milliseconds to "), "{answer:?}");
    let detail: Value = serde_json::from_str(answer.headers["l5d-err-json"].to_str().unwrap()).unwrap();
    assert_eq!(detail["timer"], serde_json::json!({"name": "total", "ms": 50, "setBy": "l5d-timeout"}), "{detail}");
    assert_eq!(detail["attempts"][0]["endpoint"], backend.addr.to_string(), "{detail}");
    let metrics = linkerd.json("/admin/metrics.json").await;
    assert_eq!(metrics["rt/http/service/svc/web/timeouts/total"], 1, "{metrics}");
}
