//! `plan` against a namerd of this project: what it says is what then happens.

use std::collections::{BTreeMap, HashMap};

use linkerd_dtab::{Bound, Distribution, NameTree, namerd::Watched};
use serde_json::{Value, json};

use crate::{
    Ctl,
    fake::{Fake, Said},
    real::Real,
};

#[tokio::test]
async fn parts_that_lead_nowhere_are_shown() {
    let namerd = Real::start(&[("/v1", 2), ("/v2", 1), ("/empty", 0)], "/svc => /#/x").await;
    let held = ["/svc/v1", "/svc/v2", "/svc/none", "/svc/empty"].map(|name| namerd.bind("", name));
    let ctl = Ctl::at(&namerd.url());
    let file = ctl.write("f", "/svc => /#/x; /svc/v2 => !; /svc/none => /#/x/v2; /svc/v1 => /#/x/v1 & /#/x/empty");
    let ran = ctl.run(&format!("dtab plan ns {file}")).await;
    let shown = "\
NAME         MOVED  FROM                   TO
/svc/none  100.0 %  (nowhere)              /#/x/v2 (1 endpoint)
/svc/v2    100.0 %  /#/x/v2 (1 endpoint)   (nowhere)
/svc/v1     50.0 %  /#/x/v1 (2 endpoints)  /#/x/empty 50.0 % (0 endpoints) & /#/x/v1 50.0 % (2 endpoints)
Names that move: 3 of 4
";
    let warning = "warning: names in use would have no endpoints: /svc/v2, 50.0 % of /svc/v1\n";
    assert_eq!((ran.code, &*ran.out, &*ran.err), (0, shown, warning));
    let ran = ctl.run(&format!("dtab plan ns {file} --json --strict")).await;
    let json: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (ran.code, &json["names"][1]["after"][0]["id"], &json["names"][1]["lost"]),
        (1, &Value::Null, &json!(1.0))
    );
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1));
    drop(held);
}

/// Which requests a proxy of the test routes: its own table, and how many for each name.
const PROXIES: [(&str, &[(&str, u32)]); 2] = [
    ("/host => /#/x", &[("/svc/world", 60_000), ("/svc/hello", 9_000), ("/svc/quiet", 1_000)]),
    // Half of what it has for one name goes its own way, whatever the table says.
    ("/svc/world => 1 * /#/x/own & 1 * /canary/world", &[("/svc/world", 5_000), ("/svc/hello", 25_000)]),
];

/// A proxy but for its sockets: it watches names, picks by their trees, and counts as proxies do.
struct Proxy {
    names: Vec<(&'static str, u32, Watched<NameTree<Bound>>)>,
    counters: BTreeMap<String, u64>,
    admin: Fake,
    random: u64,
}

impl Proxy {
    async fn start(namerd: &Real, (dtab, traffic): (&str, &[(&'static str, u32)]), random: u64) -> Self {
        let names = traffic.iter().map(|&(name, count)| (name, count, namerd.bind(dtab, name))).collect();
        let admin = Fake::start().await;
        let interpreter = json!({ "kind": "io.l5d.mesh", "root": "/ns" });
        let config = json!({ "routers": [{ "protocol": "http", "dtab": dtab, "interpreter": interpreter }] });
        admin.say("GET /config.json", Said::ok(config.to_string()));
        Self { names, counters: BTreeMap::new(), admin, random }
    }

    /// Routes its requests; how many of each name went where.
    async fn route(&mut self) -> HashMap<(&'static str, String), f64> {
        let mut routed = HashMap::new();
        for (name, count, tree) in &mut self.names {
            let tree = tree.ready().await.expect("is bound");
            let distribution = Distribution::new(&tree);
            for _ in 0..*count {
                self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let id = distribution.pick(mixed(self.random)).expect("leads somewhere").id.to_string();
                *self.counters.entry(format!("rt/http/client{id}/requests")).or_default() += 1;
                *routed.entry((*name, id)).or_default() += 1.0;
            }
            *self.counters.entry(format!("rt/http/service{name}/requests")).or_default() += u64::from(*count);
        }
        self.admin.say("GET /admin/metrics.json", Said::ok(json!(self.counters).to_string()));
        routed
    }
}

/// The bits of a counter, mixed (splitmix64).
fn mixed(counter: u64) -> u64 {
    let z = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const BEFORE: &str = "/svc => /#/x; /canary => /#/x; /svc/world => 3 * /#/x/v1 & 1 * /#/x/v2";

#[tokio::test]
async fn the_share_that_a_plan_says_moves_is_the_share_that_moves() {
    let names = ["/v1", "/v2", "/v3", "/own", "/hello", "/quiet", "/world"].map(|name| (name, 1));
    let namerd = Real::start(&names, BEFORE).await;
    let ctl = Ctl::at(&namerd.url());
    let mut proxies = Vec::new();
    for (seed, proxy) in (1..).zip(PROXIES) {
        proxies.push(Proxy::start(&namerd, proxy, seed).await);
    }
    for (after, expected) in [
        // Of 100,000: of the first proxy's 60,000 half; of the second's none, which has a table of its own.
        ("/svc => /#/x; /canary => /#/x; /svc/world => 1 * /#/x/v1 & 3 * /#/x/v2", 0.30),
        // Of the second's 5,000 half; and the first's back again.
        (
            "/svc => /#/x; /canary => /#/x/v3 | /#/x; /canary/world => /#/x/v3; /svc/world => 3 * /#/x/v1 & 1 * /#/x/v2",
            0.325,
        ),
        // Of all the 34,000 for hello a fifth.
        (
            "/svc => /#/x; /canary/world => /#/x/v3; /svc/world => 3 * /#/x/v1 & 1 * /#/x/v2; /svc/hello => 4 * /#/x/hello & 1 * /#/x/v3",
            0.068,
        ),
    ] {
        let (mut before, mut now) = (Vec::new(), Vec::new());
        for proxy in &mut proxies {
            proxy.counters.clear();
            before.push(proxy.route().await);
        }
        let file = ctl.write("f", after);
        let urls: Vec<_> = proxies.iter().map(|proxy| format!("--proxy {}", proxy.admin.url())).collect();
        let urls = urls.join(" ");
        let ran = ctl.run(&format!("dtab plan ns {file} --json --window 0 {urls}")).await;
        let plan: Value = serde_json::from_str(ran.ok()).expect("JSON");
        let said = plan["traffic"]["share"].as_f64().expect("a share");

        assert_eq!(ctl.run(&format!("dtab apply ns {file}")).await.code, 0);
        assert_eq!(namerd.table(), after.parse::<linkerd_dtab::Dtab>().expect("a table").to_string());
        for proxy in &mut proxies {
            now.push(proxy.route().await);
        }
        let measured = moved(&before, &now);
        assert!((said - expected).abs() < 1e-6, "{after}: the plan says {said}, not {expected}");
        assert!((said - measured).abs() < 0.01, "{after}: the plan says {said}, and {measured} moved");
    }
}

/// Which share of all requests went elsewhere than before.
fn moved(before: &[HashMap<(&'static str, String), f64>], now: &[HashMap<(&'static str, String), f64>]) -> f64 {
    let total: f64 = before.iter().flat_map(HashMap::values).sum();
    let stayed = before
        .iter()
        .zip(now)
        .flat_map(|(before, now)| before.iter().map(|(key, before)| now.get(key).map_or(0.0, |now| now.min(*before))));
    1.0 - stayed.sum::<f64>() / total
}
