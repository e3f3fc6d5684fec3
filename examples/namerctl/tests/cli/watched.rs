//! `apply --strict` and `apply --watch`: what is not written, and what is taken back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use linkerd_dtab::{Bound, NameTree, namerd::Watched, store::Expect};
use serde_json::{Value, json};

use crate::{
    Ctl, Ran,
    fake::{Fake, Said},
    real::{Real, WRITER, dtab, ns},
};

const NAMES: &[(&str, u8)] = &[("/v1", 1), ("/v2", 1)];
const BEFORE: &str = "/svc/web=>/#/x/v1";
const AFTER: &str = "/svc/web=>/#/x/v2";

/// How requests have ended when a proxy is asked: before the write, right after it, and then.
type Counts = (u64, u64);

struct World {
    namerd: Real,
    proxy: Fake,
    ctl: Ctl,
    _held: Watched<NameTree<Bound>>,
}

impl World {
    /// A proxy that has `/svc/web` bound, and counts this, one after the other; the last again and again.
    async fn new(counts: &'static [Counts]) -> Self {
        let mut turn = 0;
        Self::by(move || {
            turn += 1;
            metrics(counts[(turn - 1).min(counts.len() - 1)])
        })
        .await
    }

    async fn by(said: impl FnMut() -> Said + Send + 'static) -> Self {
        let namerd = Real::start(NAMES, BEFORE).await;
        let held = namerd.bind("", "/svc/web");
        let ctl = Ctl::at(&namerd.url());
        Self::of(namerd, held, ctl, said).await
    }

    /// The same, where the table is a part of what the proxy asks, and who runs the command may read the part alone.
    async fn divided(said: impl FnMut() -> Said + Send + 'static) -> Self {
        Self::owning(&[], said).await
    }

    /// The same, where the part may define this.
    async fn owning(owns: &[&str], said: impl FnMut() -> Said + Send + 'static) -> Self {
        let namerd = Real::divided(NAMES, BEFORE, owns).await;
        let held = namerd.bind_in("all", "", "/svc/web");
        let ctl = Ctl::at(&namerd.url()).with("NAMERCTL_TOKEN", WRITER);
        Self::of(namerd, held, ctl, said).await
    }

    async fn of(
        namerd: Real,
        mut held: Watched<NameTree<Bound>>,
        ctl: Ctl,
        mut said: impl FnMut() -> Said + Send + 'static,
    ) -> Self {
        let proxy = Fake::start().await;
        proxy.say_by("GET /admin/metrics.json", move || Some(said()));
        ctl.write("f", AFTER);
        held.ready().await.expect("is bound");
        Self { namerd, proxy, ctl, _held: held }
    }

    fn line(&self, flags: &str) -> String {
        format!("dtab apply ns f --watch {flags} --proxy {}", self.proxy.url())
    }

    async fn apply(&self, flags: &str) -> Ran {
        self.ctl.run(&self.line(flags)).await
    }
}

fn metrics((well, badly): Counts) -> Said {
    let json = json!({
        "rt/http/service/svc/web/success": well, "rt/http/service/svc/web/failures": badly,
        // What does not move does not count.
        "rt/http/service/svc/other/failures": badly * 1_000,
    });
    Said::ok(json.to_string())
}

const APPLIED: &str = "- /svc/web  => /#/x/v1 ;\n+ /svc/web  => /#/x/v2 ;\nApplied ns\n";

#[tokio::test]
async fn a_change_by_which_requests_fail_is_taken_back_and_told_in_the_history() {
    // What had failed before is not its fault.
    let world = World::new(&[(100, 900), (110, 950), (140, 980)]).await;
    let ran = world.apply("60s --min-success 0.99 --reason canary").await;
    assert_eq!((ran.code, &*ran.err), (1, ""), "{}", ran.out);
    let how = ran.out.strip_prefix(&format!("{APPLIED}Reverted ns: ")).expect("is reverted").trim_end();
    // How long it took, which is not how long it could have watched.
    let (what, rest) = how.split_once(" within ").expect("a time");
    let (seconds, least) = rest.split_once("s, and ").expect("seconds");
    assert_eq!(what, "50.00 % of the requests for names that it moves succeeded");
    assert_eq!(least, "99.00 % have to");
    assert!((0.9..30.0).contains(&seconds.parse::<f64>().expect("a number")), "{how}");
    assert_eq!(world.namerd.table(), BEFORE);
    let history = world.namerd.history();
    assert!(history[0].0.starts_with("auto-revert for 127.0.0.1:"), "{history:?}");
    assert_eq!(history[0].1, format!("back to 1: auto-revert: {how}"));
    assert_eq!(history[1].1, "canary");
    let ran = World::new(&[(0, 0), (0, 0), (0, 40)]).await.apply("60s --json").await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let watched = json!({ "names": 1, "requests": 40, "failures": 40, "tooLow": 0.0 });
    assert_eq!((ran.code, &json["result"], &json["watched"]), (1, &json!("reverted"), &watched));
}

#[tokio::test]
async fn a_table_that_was_not_there_is_deleted_again() {
    let world = World::new(&[(0, 0), (0, 0), (0, 40)]).await;
    world.namerd.session.delete(&ns("ns"), &Expect::Any).await.expect("deletes");
    let ran = world.apply("60s").await;
    assert_eq!((ran.code, ran.out.lines().next()), (1, Some("Created ns")), "{}", ran.out);
    assert_eq!(world.namerd.table(), "(deleted)");
}

#[tokio::test]
async fn what_others_wrote_since_stays() {
    let is_failing = Arc::new(AtomicBool::new(false));
    let (failing, mut badly) = (Arc::clone(&is_failing), 0);
    let world = World::by(move || {
        badly += if failing.load(Ordering::SeqCst) { 100 } else { 0 };
        metrics((0, badly))
    })
    .await;
    let others = async {
        let mut table = world.namerd.session.dtab(&ns("ns")).expect("is allowed");
        while world.namerd.table() != AFTER {
            table.changed().await;
        }
        world
            .namerd
            .session
            .put(&ns("ns"), &dtab("/svc/web => /#/x/v1; /new => /x"), &Expect::Any)
            .await
            .expect("writes");
        is_failing.store(true, Ordering::SeqCst);
    };
    let (ran, ()) = tokio::join!(world.apply("10m"), others);
    let last = ran.out.lines().last().unwrap_or_default();
    assert!(ran.code == 1 && last.starts_with("Failing ns: 0.00 % of the requests"), "{}", ran.out);
    assert!(last.ends_with("; others have changed it since, so it stays"), "{}", ran.out);
    assert_eq!(world.namerd.table(), "/svc/web=>/#/x/v1;/new=>/x");
}

#[tokio::test]
async fn what_goes_well_or_is_too_little_to_judge_by_is_kept() {
    let cases: [(&'static [Counts], _, _); 5] = [
        (
            &[(0, 0), (0, 0), (98, 2)],
            "1s --min-success 0.98",
            "98.00 % of the 100 requests for names that it moves succeeded within 1s",
        ),
        (
            &[(0, 0), (0, 0), (0, 19)],
            "1s",
            "only 19 requests for names that it moves ended within 1s, too few to judge by",
        ),
        (
            &[(0, 0), (0, 0), (0, 5)],
            "1s --min-requests 6",
            "only 5 requests for names that it moves ended within 1s, too few to judge by",
        ),
        (
            &[(7, 7)],
            "1s --min-requests 0",
            "only 0 requests for names that it moves ended within 1s, too few to judge by",
        ),
        (
            &[(0, 0), (0, 0), (0, 100)],
            "1s --router other",
            "only 0 requests for names that it moves ended within 1s, too few to judge by",
        ),
    ];
    for (counts, flags, how) in cases {
        let world = World::new(counts).await;
        let ran = world.apply(flags).await;
        assert_eq!(ran.ok(), format!("{APPLIED}Kept ns: {how}\n"));
        assert_eq!(world.namerd.table(), AFTER);
    }
}

#[tokio::test]
async fn routers_that_ask_something_else_do_not_count() {
    for (interpreter, code) in [
        (json!({ "kind": "io.l5d.mesh", "root": "/ns" }), 1),
        (json!({ "kind": "io.l5d.mesh", "root": "/other" }), 0),
        (json!({ "kind": "default" }), 0),
    ] {
        let world = World::new(&[(0, 0), (0, 0), (0, 100)]).await;
        let config = json!({ "routers": [{ "protocol": "http", "interpreter": interpreter }] });
        world.proxy.say("GET /config.json", Said::ok(config.to_string()));
        assert_eq!(world.apply("1s").await.code, code, "{config}");
    }
}

#[tokio::test]
async fn a_change_that_moves_nothing_in_use_is_not_watched() {
    let world = World::new(&[(0, 0), (0, 100), (0, 200)]).await;
    world.ctl.write("f", &format!("{BEFORE}; /new => /x"));
    let ran = world.apply("60m").await;
    assert!(ran.ok().ends_with("Kept ns: no name in use moves, so there was nothing to watch\n"), "{}", ran.out);
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_stops_it_before_the_write_and_not_after() {
    let world = World::new(&[(0, 0)]).await;
    let silent = Fake::start().await;
    let ran = world.apply(&format!("60s --proxy {}", silent.url())).await;
    let text = format!("Error: {}/admin/metrics.json answers 404 Not Found\n", silent.url());
    assert_eq!((ran.code, &*ran.out, ran.err), (255, "", text));
    assert_eq!(world.namerd.table(), BEFORE);

    let mut turn = 0;
    let world = World::by(move || {
        turn += 1;
        match turn {
            1 | 2 => metrics((10, 0)),
            3 | 4 => Said::status(503, ""),
            // It is caught up with.
            _ => metrics((10, 50)),
        }
    })
    .await;
    let ran = world.apply("60s").await;
    let url = world.proxy.url();
    let warning =
        format!("warning: {url} is not counted for now: {url}/admin/metrics.json answers 503 Service Unavailable\n");
    assert_eq!((ran.code, ran.err), (1, warning), "{}", ran.out);
    assert_eq!(world.namerd.table(), BEFORE);
}

#[tokio::test]
async fn it_is_tried_again_to_take_a_change_back() {
    let namerd = Fake::start().await;
    namerd.put("ns", BEFORE);
    let plan = json!({ "namespace": "ns", "names": [{ "name": "/svc/web", "moved": 1.0, "before": [], "after": [] }] });
    namerd.say("POST /api/1/plan/ns", Said::ok(plan.to_string()));
    let mut failures = 1;
    namerd.say_by("POST /api/1/rollback/ns", move || {
        failures -= 1;
        (failures == 0).then(|| Said::status(500, "the store is away"))
    });
    let proxy = Fake::start().await;
    let mut badly = 0;
    proxy.say_by("GET /admin/metrics.json", move || {
        badly += 100;
        Some(metrics((0, badly)))
    });
    let ctl = Ctl::at(&namerd.url());
    ctl.write("f", AFTER);
    let ran = ctl.run(&format!("dtab apply ns f --watch 10m --proxy {}", proxy.url())).await;
    let warning = "warning: not taken back yet: unexpected response: 500 Internal Server Error\n";
    assert_eq!((ran.code, &*ran.err, namerd.table("ns").as_deref()), (1, warning, Some(BEFORE)));
    assert!(namerd.lines().iter().any(|line| line == "POST /api/1/rollback/ns?to=1&automatic=true"));
}

#[tokio::test]
async fn a_strict_apply_writes_nothing_by_which_names_lose_their_endpoints() {
    let world = World::new(&[(0, 0)]).await;
    world.ctl.write("f", "/svc/web => /#/x/none");
    let ran = world.ctl.run("dtab apply ns f --strict").await;
    let warning = "warning: names in use would have no endpoints: /svc/web\n";
    let shown = "Refused: names in use would have no endpoints; ns was not written\n";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (1, shown, warning));
    assert_eq!(world.namerd.table(), BEFORE);
    let ran = world.ctl.run("dtab apply ns f --strict --json").await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((ran.code, &json["result"]), (1, &json!("refused")));
    // Without the flag it is written, and said.
    let ran = world.ctl.run("dtab apply ns f").await;
    assert_eq!((ran.code, &*ran.err), (0, warning));
    world.ctl.write("f", AFTER);
    assert_eq!(world.ctl.run("dtab apply ns f --strict").await.code, 0);
    assert_eq!(world.namerd.table(), AFTER);
}

#[tokio::test]
async fn a_strict_apply_heeds_names_that_one_may_not_read() {
    let world = World::divided(|| metrics((0, 0))).await;
    world.ctl.write("f", "/svc/web => /#/x/none");
    let warning = "warning: 1 name elsewhere loses all endpoints; you may not read them\n";
    for command in ["apply ns f", "plan ns f"] {
        let ran = world.ctl.run(&format!("dtab {command} --strict")).await;
        assert_eq!((ran.code, &*ran.err), (1, warning), "{command}: {}", ran.out);
    }
    assert_eq!(world.namerd.table(), BEFORE);
    let ran = world.ctl.run("dtab plan ns f").await;
    let shown = "Names that move: 0 of 0; 1 elsewhere, which you may not read\n";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, shown, warning));
    let ran = world.ctl.run("dtab apply ns f").await;
    assert_eq!((ran.code, &*ran.err), (0, warning));
    world.ctl.write("f", AFTER);
    assert_eq!(world.ctl.run("dtab apply ns f --strict").await.code, 0);
    assert_eq!(world.namerd.table(), AFTER);
}

/// What the proxy counts of a name that the change moves and of one that it does not, by nobody's knowledge.
fn of_others((well, badly): Counts) -> Said {
    Said::ok(json!({ "rt/http/service/svc/web/failures": badly, "rt/http/service/svc/db/success": well }).to_string())
}

/// What a proxy says, one after the other; the last again and again.
fn in_turn(
    counts: &'static [Counts],
    said: impl Fn(Counts) -> Said + Send + 'static,
) -> impl FnMut() -> Said + Send + 'static {
    let mut turn = 0;
    move || {
        turn += 1;
        said(counts[(turn - 1).min(counts.len() - 1)])
    }
}

const WATCHES_OTHERS: &str = "warning: 1 name elsewhere moves that you may not read: --watch counts all other requests of \
                              the proxies, as it cannot tell which are for them\n";

#[tokio::test]
async fn names_that_one_may_not_read_are_watched_among_all_others() {
    let counts = |counts| in_turn(counts, of_others);
    let world = World::divided(counts(&[(0, 9), (0, 9), (0, 9), (60, 49)])).await;
    let ran = world.apply("2s").await;
    let last = ran.out.lines().last().unwrap_or_default();
    assert!(last.starts_with("Reverted ns: 60.00 % of the other requests of the proxies succeeded within "), "{last}");
    assert!(last.ends_with("s, and 95.00 % have to; 1 name elsewhere moves that you may not read"), "{last}");
    assert_eq!((ran.code, &*ran.err, &*world.namerd.table()), (1, WATCHES_OTHERS, BEFORE));

    let world = World::divided(counts(&[(0, 9), (0, 9), (0, 9), (99, 10)])).await;
    let ran = world.apply("1s --json").await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let elsewhere = json!({ "names": 1, "requests": 100, "failures": 1 });
    let watched = json!({ "names": 0, "requests": 0, "failures": 0, "elsewhere": elsewhere });
    assert_eq!((ran.code, &json["watched"], &*world.namerd.table()), (0, &watched, AFTER));
    let world = World::divided(counts(&[(0, 9), (0, 9), (0, 9), (99, 10)])).await;
    let kept = "Kept ns: 1 name elsewhere moves that you may not read: 99.00 % of the 100 other requests of the proxies \
                succeeded within 1s\n";
    assert_eq!(world.apply("1s").await.out, format!("{APPLIED}{kept}"));

    // What asks no namerd, or the table itself, of which all names are known, is not of others.
    for (interpreter, code) in [
        (json!({ "kind": "io.l5d.mesh", "root": "/all" }), 1),
        (json!({ "kind": "io.l5d.mesh", "root": "/ns" }), 0),
        (json!({ "kind": "default" }), 0),
    ] {
        let world = World::divided(counts(&[(0, 0), (0, 0), (0, 0), (0, 100)])).await;
        let config = json!({ "routers": [{ "protocol": "http", "interpreter": interpreter }] });
        world.proxy.say("GET /config.json", Said::ok(config.to_string()));
        assert_eq!(world.apply("1s").await.code, code, "{config}");
    }
}

#[tokio::test]
async fn what_failed_before_is_not_the_fault_of_a_change() {
    // As many fail as did before, when it was looked twice.
    let as_ever: &[Counts] = &[(0, 50), (80, 70), (80, 70), (160, 90)];
    let world = World::divided(in_turn(as_ever, of_others)).await;
    let ran = world.apply("1s --json").await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let elsewhere = json!({ "names": 1, "requests": 100, "failures": 20, "before": 0.8 });
    assert_eq!(
        (ran.code, &json["watched"]["elsewhere"], &*world.namerd.table()),
        (0, &elsewhere, AFTER),
        "{}",
        ran.err
    );
    // Now more do.
    let world = World::divided(in_turn(&[(0, 50), (80, 70), (80, 70), (150, 100)], of_others)).await;
    let ran = world.apply("1s").await;
    let last = ran.out.lines().last().unwrap_or_default();
    assert!(last.starts_with("Reverted ns: 70.00 % of the other requests of the proxies succeeded within "), "{last}");
    let why = "s, and 75.00 % have to, as 80.00 % did before; 1 name elsewhere moves that you may not read";
    assert!(last.ends_with(why), "{last}");
    assert_eq!((ran.code, &*world.namerd.table()), (1, BEFORE));
    // What is known to move has no such excuse.
    let world = World::new(&[(0, 50), (0, 50), (80, 70)]).await;
    assert_eq!(world.apply("1s").await.code, 1);
}

#[tokio::test]
async fn of_names_that_one_may_not_read_those_below_one_s_own_prefix_are_watched_alone() {
    let of_own = |(well, badly): Counts| {
        Said::ok(
            json!({
                "rt/http/service/svc/web/success": well, "rt/http/service/svc/web/v/failures": badly,
                "rt/http/service/svc/db/failures": 1_000 * (well + badly), "rt/http/service/svc/website/failures": 1_000 * well,
            })
            .to_string(),
        )
    };
    let well: &[Counts] = &[(0, 0), (0, 0), (0, 0), (99, 1)];
    let world = World::owning(&["/svc/web"], in_turn(well, of_own)).await;
    let ran = world.apply("1s").await;
    let kept = "Kept ns: 1 name elsewhere moves that you may not read: 99.00 % of the 100 requests of the proxies for names \
                that the table may define succeeded within 1s\n";
    assert_eq!((ran.code, ran.out), (0, format!("{APPLIED}{kept}")));
    let warning = "warning: 1 name elsewhere moves that you may not read: --watch counts all requests of the proxies for names \
                   that the table may define, as it cannot tell which are for them\n";
    assert_eq!(ran.err, warning);
    // Few as they are among all.
    let world = World::owning(&["/svc/web"], in_turn(&[(0, 0), (0, 0), (0, 0), (60, 40)], of_own)).await;
    let ran = world.apply("1s --json").await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    let own = json!({ "names": 1, "requests": 100, "failures": 40 });
    assert_eq!((ran.code, &json["watched"]["own"], &json["watched"]["tooLow"]), (1, &own, &json!(0.6)));
    assert_eq!(json["watched"].get("elsewhere"), None);
    assert_eq!(world.namerd.table(), BEFORE);
    // Whoever leads there by another name is among the others.
    let world = World::owning(&["/x", "/svc/web"], in_turn(well, of_own)).await;
    world.ctl.write("f", "/svc/web => /#/x/v1; /x => /svc/web");
    let _held = world.namerd.bind_in("all", "/other => /x", "/other");
    assert_eq!(world.apply("1s").await.code, 1);
}

#[tokio::test]
async fn flags_that_do_not_fit_are_refused() {
    let world = World::new(&[(0, 0)]).await;
    let together = "--proxy, --router, --min-success and --min-requests go with --watch";
    for (flags, text) in [
        ("--min-success 0.9", together),
        ("--min-requests 3", together),
        ("--proxy http://127.0.0.1:1", together),
        ("--router http", together),
        ("--watch 10s", "--watch needs --proxy: the proxies that count what fails"),
        ("--watch 0 --proxy http://127.0.0.1:1", "--watch 0 watches nothing"),
    ] {
        let ran = world.ctl.run(&format!("dtab apply ns f {flags}")).await;
        assert_eq!((ran.code, ran.err), (255, format!("Error: {text}\n")), "{flags}");
    }
    let ran = world.ctl.run("dtab apply ns f --watch 1s --min-success 99").await;
    assert!(
        ran.err.starts_with("Error: invalid argument \"99\" for \"--min-success\" flag: not a number from 0 to 1\n")
    );
    assert_eq!(world.namerd.table(), BEFORE);
}
