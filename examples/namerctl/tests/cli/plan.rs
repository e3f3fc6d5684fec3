//! `plan`: namerd's plan, weighed by what proxies and a Prometheus tell.

use serde_json::{Value, json};

use crate::{
    Ctl,
    fake::{Fake, Said},
};

fn the_plan() -> Value {
    json!({
        "namespace": "ns",
        "names": [
            { "name": "/svc/world", "moved": 0.1,
              "before": [{ "id": "/#/fs/v1", "share": 1.0, "endpoints": ["127.0.0.1:1", "127.0.0.1:2"] }],
              "after": [{ "id": "/#/fs/v1", "share": 0.9, "endpoints": ["127.0.0.1:1", "127.0.0.1:2"] },
                        { "id": "/#/fs/v2", "share": 0.1, "endpoints": ["127.0.0.1:3"] }] },
            { "name": "/svc/hello", "moved": 0.0,
              "before": [{ "id": "/#/fs/hello", "share": 1.0, "endpoints": [] }],
              "after": [{ "id": "/#/fs/hello", "share": 1.0, "endpoints": [] }] },
            { "name": "/svc/gone", "moved": 1.0, "before": [{ "id": "/#/fs/v1", "share": 1.0, "endpoints": [] }],
              "after": [{ "id": null, "share": 1.0, "endpoints": [] }] },
        ],
        "errors": [],
        "warnings": ["nobody reaches /x"],
    })
}

async fn planned() -> (Fake, Ctl, String) {
    let namerd = Fake::start().await;
    namerd.say("POST /api/1/plan/ns", Said::ok(the_plan().to_string()));
    let ctl = Ctl::at(&namerd.url());
    let file = ctl.write("f", "/svc/world => 9 * /#/fs/v1 & 1 * /#/fs/v2");
    (namerd, ctl, file)
}

/// The client counts less than the name: a sample falls between the two.
fn metrics(world: u64, hello: u64) -> String {
    json!({
        "rt/http/service/svc/world/requests": world,
        "rt/http/service/svc/hello/requests": hello,
        "rt/http/client/#/fs/v1/requests": world - 2,
        "rt/http/client/#/fs/v1/service/svc/world/requests": world,
        "rt/other/service/svc/world/requests": 1_000_000,
    })
    .to_string()
}

#[tokio::test]
async fn without_traffic_it_says_what_moves_where() {
    let (namerd, ctl, file) = planned().await;
    let ran = ctl.run(&format!("dtab plan ns {file}")).await;
    let shown = "\
NAME          MOVED  FROM                    TO
/svc/world   10.0 %  /#/fs/v1 (2 endpoints)  /#/fs/v1 90.0 % (2 endpoints) & /#/fs/v2 10.0 % (1 endpoint)
/svc/gone   100.0 %  /#/fs/v1 (0 endpoints)  (nowhere)
Names that move: 2 of 3
";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, shown, "warning: nobody reaches /x\n"));
    let asked = namerd.one();
    assert_eq!(asked.line(), "POST /api/1/plan/ns");
    assert_eq!(asked.header("content-type"), "application/dtab");
    assert_eq!(asked.body, "/svc/world => 9 * /#/fs/v1 & 1 * /#/fs/v2");
    let array = ctl.write("f.json", r#"[{"prefix":"/svc/world","dst":"/#/fs/v1 & /#/fs/v2"}]"#);
    assert_eq!(ctl.run(&format!("dtab plan ns {array}")).await.code, 0);
    let asked = namerd.one();
    assert_eq!(asked.header("content-type"), "application/json");
    assert_eq!(asked.body, "[{\"prefix\":\"/svc/world\",\"dst\":\"/#/fs/v1 \\u0026 /#/fs/v2\"}]");
    let json: Value = serde_json::from_str(ctl.run(&format!("dtab plan ns {file} --json")).await.ok()).expect("JSON");
    assert_eq!(json, the_plan());
}

#[tokio::test]
async fn proxies_say_how_much_it_is() {
    let (_namerd, ctl, file) = planned().await;
    let (one, other) = (Fake::start().await, Fake::start().await);
    one.say("GET /admin/metrics.json", Said::ok(metrics(100, 200)));
    other.say("GET /admin/metrics.json", Said::ok(metrics(300, 400)));
    let proxies = format!("--proxy {} --proxy {} --router http --window 0", one.url(), other.url());
    let ran = ctl.run(&format!("dtab plan ns {file} {proxies}")).await;
    let shown = "\
NAME          MOVED  REQUESTS MOVED  FROM                    TO
/svc/world   10.0 %            40.0  /#/fs/v1 (2 endpoints)  /#/fs/v1 90.0 % (2 endpoints) & /#/fs/v2 10.0 % (1 endpoint)
/svc/gone   100.0 %             0.0  /#/fs/v1 (0 endpoints)  (nowhere)

CLIENT     REQUESTS NOW   THEN  MEASURED
/#/fs/v1          400.0  360.0     396.0
/#/fs/v2            0.0   40.0       0.0
(nowhere)           0.0    0.0         -

40.0 of 1000.0 requests move: 4.0 %
Names that move: 2 of 3
";
    assert_eq!((ran.code, &*ran.out), (0, shown));
    assert!(crate::docs().contains(&format!("```text\n{shown}```\n")), "docs/namerctl.md shows another plan");
    let ran = ctl.run(&format!("dtab plan ns {file} --json {proxies}")).await;
    let json: Value = serde_json::from_str(ran.ok()).expect("JSON");
    assert_eq!((&json["names"][0]["requests"], &json["names"][0]["requestsMoved"]), (&json!(400.0), &json!(40.0)));
    assert_eq!(json["traffic"]["share"], 0.04);
    assert_eq!(json["traffic"]["clients"][1], json!({ "id": "/#/fs/v2", "now": 0.0, "then": 40.0, "measured": 0.0 }));
    assert_eq!(one.lines(), ["GET /config.json", "GET /admin/metrics.json"].repeat(2));
}

#[tokio::test]
async fn what_moves_whole_leaves_nothing_behind_whatever_was_sampled() {
    let (namerd, ctl, file) = planned().await;
    let all_to = |id: &str| json!([{ "id": id, "share": 1.0, "endpoints": [] }]);
    let name = json!({ "name": "/svc/world", "moved": 1.0, "before": all_to("/#/fs/v1"), "after": all_to("/#/fs/v2") });
    let plan = json!({ "namespace": "ns", "names": [name], "warnings": [] });
    namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    let proxy = Fake::start().await;
    for measured in [3, 100, 400] {
        let counters =
            json!({ "rt/http/service/svc/world/requests": 100, "rt/http/client/#/fs/v1/requests": measured });
        proxy.say("GET /admin/metrics.json", Said::ok(counters.to_string()));
        let ran = ctl.run(&format!("dtab plan ns {file} --json --window 0 --proxy {}", proxy.url())).await;
        let json: Value = serde_json::from_str(ran.ok()).expect("JSON");
        let expected = json!([
            { "id": "/#/fs/v1", "now": 100.0, "then": 0.0, "measured": f64::from(measured) },
            { "id": "/#/fs/v2", "now": 0.0, "then": 100.0, "measured": 0.0 },
        ]);
        assert_eq!(json["traffic"]["clients"], expected);
    }
}

#[tokio::test]
async fn names_elsewhere_are_counted_and_strict_heeds_them() {
    let (namerd, ctl, file) = planned().await;
    let say = |elsewhere: Value, errors: Value, warnings: Value| {
        let plan = json!({ "namespace": "ns", "names": [], "looked_at": 0, "errors": errors, "warnings": warnings, "elsewhere": elsewhere });
        namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    };
    let lost = "3 names elsewhere lose all endpoints, 2 move; you may not read them";
    let counted = json!({ "moved": 5, "lost": 3, "partly": 0 });
    say(counted.clone(), json!([]), json!([lost]));
    let (shown, said) =
        ("Names that move: 0 of 0; 5 elsewhere, which you may not read\n", format!("warning: {lost}\n"));
    for (flags, code) in [("", 0), ("--strict", 1)] {
        let ran = ctl.run(&format!("dtab plan ns {file} {flags}")).await;
        assert_eq!((ran.code, &*ran.out, &*ran.err), (code, shown, &*said), "{flags}");
    }
    let ran = ctl.run(&format!("dtab plan ns {file} --strict --json")).await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &json["elsewhere"], &json["warnings"][0]), (1, &counted, &json!(lost)));
    // A part is too much, and so is what nobody tells; that they move alone is not.
    for (elsewhere, code) in [
        (json!({ "moved": 1, "lost": 0, "partly": 1 }), 1),
        (json!({ "moved": null, "lost": null, "partly": null }), 1),
        (json!({ "moved": 2, "lost": 0, "partly": 0 }), 0),
    ] {
        say(elsewhere.clone(), json!([]), json!([]));
        assert_eq!(ctl.run(&format!("dtab plan ns {file}")).await.code, 0);
        assert_eq!(ctl.run(&format!("dtab plan ns {file} --strict")).await.code, code, "{elsewhere}");
    }
    say(json!({ "moved": null, "lost": null, "partly": null }), json!([]), json!([]));
    let ran = ctl.run(&format!("dtab plan ns {file}")).await;
    assert_eq!(ran.ok(), "Names that move: 0 of 0; how many elsewhere is not told\n");
}

#[tokio::test]
async fn a_window_is_two_samples() {
    let (_namerd, ctl, file) = planned().await;
    let proxy = Fake::start().await;
    proxy.say("GET /admin/metrics.json", Said::ok(metrics(100, 200)));
    let ran = ctl.run(&format!("dtab plan ns {file} --window 10ms --proxy {}", proxy.url())).await;
    assert!(ran.out.contains("\n0.0 of 0.0 requests/s move: none were seen\n"), "{}", ran.out);
    assert_eq!(proxy.lines()[1..], ["GET /admin/metrics.json"; 2]);
}

#[tokio::test]
async fn a_name_under_several_tables_is_counted_once() {
    let (namerd, ctl, file) = planned().await;
    let name = |dtab: &str, moved: f64| {
        json!({ "name": "/svc/world", "dtab": dtab, "tables": 3, "moved": moved,
                "before": [{ "id": "/#/fs/v1", "share": 1.0, "endpoints": [] }],
                "after": [{ "id": "/#/fs/v1", "share": 1.0 - moved, "endpoints": [] },
                          { "id": null, "share": moved, "endpoints": [] }] })
    };
    let plan = json!({ "namespace": "ns", "names": [name("/a=>/b", 0.5), name("/c=>/d", 0.1)], "warnings": [] });
    namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    let proxy = Fake::start().await;
    proxy.say("GET /admin/metrics.json", Said::ok(metrics(300, 700)));
    let line = format!("dtab plan ns {file} --json --router http --window 0 --proxy {}", proxy.url());
    let traffic = async |config: Option<Value>| -> Value {
        if let Some(config) = config {
            proxy.say("GET /config.json", Said::ok(config.to_string()));
        }
        let json: Value = serde_json::from_str(ctl.run(&line).await.ok()).expect("JSON");
        json["traffic"].clone()
    };
    // Nobody says which table the proxy has: a third of the name's requests is for each.
    let known = traffic(None).await;
    assert_eq!((&known["moved"], &known["total"]), (&json!(60.0), &json!(1000.0)));
    assert_eq!(known["clients"][1], json!({ "id": null, "now": 0.0, "then": 60.0 }));
    let config = |kind: &str, dtab: &str| {
        let interpreter = json!({ "kind": kind, "namespace": "ns" });
        Some(json!({ "routers": [{ "protocol": "http", "dtab": dtab, "interpreter": interpreter }] }))
    };
    for (kind, dtab, moved) in [
        ("io.l5d.namerd.http", "/a => /b", 150.0),
        ("io.l5d.namerd", "/c=>/d;", 30.0),
        ("io.l5d.namerd", "/e => /f", 0.0),
        ("default", "/a => /b", 0.0),
    ] {
        assert_eq!(traffic(config(kind, dtab)).await["moved"], json!(moved), "{kind} {dtab}");
    }
}

#[tokio::test]
async fn what_would_be_refused_or_lost_ends_with_1() {
    let (namerd, ctl, file) = planned().await;
    let mut plan = the_plan();
    plan["names"][2]["lost"] = json!(1.0);
    namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    assert_eq!(ctl.run(&format!("dtab plan ns {file}")).await.code, 0);
    assert_eq!(ctl.run(&format!("dtab plan ns {file} --strict")).await.code, 1);
    plan["errors"] = json!(["entry 1: no"]);
    namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    let ran = ctl.run(&format!("dtab plan ns {file}")).await;
    assert_eq!((ran.code, &*ran.err), (1, "error: entry 1: no\nwarning: nobody reaches /x\n"));
}

#[tokio::test]
async fn a_prometheus_says_how_much_it_is() {
    let (_namerd, ctl, file) = planned().await;
    let prometheus = Fake::start().await;
    let answer = |kind: &str, series: &[(&str, &str, &str)]| {
        let of = |(rt, name, value): &(&str, &str, &str)| json!({ "metric": { "rt": rt, kind: name }, "value": [1.5, value] });
        let result: Vec<_> = series.iter().map(of).collect();
        Said::ok(json!({ "status": "success", "data": { "resultType": "vector", "result": result } }).to_string())
    };
    let names =
        [("http", "svc/world", "8"), ("http", "svc/hello", "2"), ("in", "svc/world", "90"), ("http", "svc/x", "NaN")];
    prometheus.say("GET /p/api/v1/query?query=sum%20by%20%28rt%2C%20service%29", answer("service", &names));
    prometheus.say(
        "GET /p/api/v1/query?query=sum%20by%20%28rt%2C%20client%29",
        answer("client", &[("http", "#/fs/v1", "10")]),
    );
    let metrics = format!("--metrics {}/p --router http", prometheus.url());
    let ran = ctl.run(&format!("dtab plan ns {file} {metrics}")).await;
    assert!(ran.out.contains("\n0.8 of 10.0 requests/s move: 8.0 %\n"), "{}", ran.out);
    assert!(ran.out.contains("\n/#/fs/v1              8.0   7.2      10.0\n"), "{}", ran.out);
    let lines = prometheus.lines();
    assert!(lines[0].ends_with("%28rate%28rt%3Aservice%3Arequests%5B120000ms%5D%29%29"), "{lines:?}");
    ctl.run(&format!("dtab plan ns {file} {metrics} --window 0")).await;
    let lines = prometheus.lines();
    assert!(lines[1].ends_with("%20%28rt%3Aclient%3Arequests%29"), "{lines:?}");
}

#[tokio::test]
async fn traffic_that_nobody_tells_ends_it() {
    let (_namerd, ctl, file) = planned().await;
    let proxy = Fake::start().await;
    let ran = ctl.run(&format!("dtab plan ns {file} --window 0 --proxy {}", proxy.url())).await;
    let text = format!("Error: {}/admin/metrics.json answers 404 Not Found\n", proxy.url());
    assert_eq!((ran.code, &*ran.out, ran.err), (255, "", text));
    let ran = ctl.run(&format!("dtab plan ns {file} --proxy namerd")).await;
    assert_eq!(ran.err, "Error: namerd: invalid base URL: namerd\n");
    let ran = ctl.run(&format!("dtab plan ns {file} --window 5")).await;
    assert_eq!(
        (ran.code, &*ran.out),
        (255, "invalid argument \"5\" for \"--window\" flag: not a number of ms, s or m\n")
    );
}

#[tokio::test]
async fn nothing_that_moves() {
    let (namerd, ctl, file) = planned().await;
    namerd.say("POST /api/1/plan/ns", Said::ok(r#"{"namespace":"ns","names":[],"warnings":[]}"#));
    assert_eq!(ctl.run(&format!("dtab plan ns {file}")).await.ok(), "Names that move: 0 of 0\n");
}
