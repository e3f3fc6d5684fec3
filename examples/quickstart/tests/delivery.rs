//! The delivery story, held to numbers.

use std::time::Duration;

use linkerd_core::BoxError;
use quickstart::{
    cluster::{Cluster, Node},
    delivery::{Gate, Outcome, Versions, deliver},
    load::Load,
    traffic::Counts,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

type Done = Result<(), BoxError>;

const DOORS: &str = "hal, open the pod bay doors";

/// Whatever has not happened by then does not happen.
const LONG: Duration = Duration::from_mins(4);
/// How often a second each node is asked all the time.
const LOAD: u32 = 30;
/// Of so many requests, a share of a tenth is within 0.02 and one of three tenths within 0.03 by five standard deviations.
const MANY: usize = 6_000;

fn load(cluster: &Cluster) -> Result<Load, BoxError> {
    Load::start(cluster.nodes().iter().map(Node::external), LOAD)
}

/// Ends it: there was some, and nothing of it failed.
async fn unharmed(load: Load) -> Counts {
    let counts = load.stop().await;
    assert!(counts.total() > 0 && counts.failed() == 0, "{counts}");
    counts
}

/// What `world` answers to so many requests, through the inner proxies of all nodes at once.
async fn ask(cluster: &Cluster, requests: usize) -> Result<Counts, BoxError> {
    let mut asking = JoinSet::new();
    for node in cluster.nodes() {
        let traffic = node.inside()?;
        asking.spawn(async move { traffic.count(requests, None).await });
    }
    let mut counts = Counts::default();
    while let Some(asked) = asking.join_next().await {
        counts.add_all(asked??);
    }
    Ok(counts)
}

/// The share of answers that have this text.
async fn share(cluster: &Cluster, text: &str) -> Result<f64, BoxError> {
    let counts = ask(cluster, MANY / cluster.nodes().len()).await?;
    assert_eq!(counts.failed(), 0, "{counts}");
    Ok(counts.with(text) as f64 / counts.total() as f64)
}

/// All of so many requests are answered with this text.
async fn all(cluster: &Cluster, requests: usize, text: &str) -> Done {
    let counts = ask(cluster, requests.div_ceil(cluster.nodes().len())).await?;
    assert_eq!((counts.with(text), counts.failed()), (counts.total(), 0), "{counts}");
    Ok(())
}

/// What a human looks at before the gate is opened.
async fn look(gate: Gate, versions: &Versions, cluster: &mut Cluster) -> Done {
    match gate {
        Gate::Tested => {
            let before = cluster.requests(&versions.new);
            all(cluster, 200, "world").await?;
            assert_eq!(cluster.requests(&versions.new), before, "nobody gets it who does not ask for it");
            let (name, dtab) = versions.header();
            for node in cluster.nodes() {
                let answer = node.enter()?.get("/", Some((name, &dtab))).await?;
                assert!(answer.body.starts_with("Hello (127.0."), "{answer:?}");
                assert!(answer.body.contains(&format!(") {DOORS} (127.0.")), "{answer:?}");
            }
        }
        Gate::Tenth => {
            let share = share(cluster, DOORS).await?;
            assert!((share - 0.1).abs() <= 0.02, "{share}");
        }
        Gate::All => {
            all(cluster, 500, DOORS).await?;
            cluster.unlist(&versions.new)?;
            cluster.answers("world").await?;
            all(cluster, 100, "world").await?;
            cluster.list(&versions.new)?;
            cluster.answers(DOORS).await?;
            all(cluster, 100, DOORS).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_fails_nothing() {
    let story = async {
        let mut cluster = Cluster::start().await?;
        let before = cluster.rule().await?;
        let load = load(&cluster)?;

        let outcome = deliver(&mut cluster, DOORS, async |gate, versions, cluster| {
            look(gate, versions, cluster).await?;
            Ok(true)
        })
        .await?;

        let counts = unharmed(load).await;
        assert!(counts.with("world") > 0 && counts.with(DOORS) > 0, "{counts}");
        assert_eq!(outcome, Outcome::Delivered);
        let after = cluster.rule().await?;
        assert_eq!(after.dst, "/srv/world-v2");
        assert_ne!(after.version, before.version);
        all(&cluster, 30, DOORS).await
    };
    timeout(LONG, story).await.expect("it ends").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_at_each_gate_goes_back_and_fails_nothing() {
    let story = async {
        let mut cluster = Cluster::start().await?;
        let load = load(&cluster)?;
        for stop in Gate::ALL {
            let outcome = deliver(&mut cluster, DOORS, async |gate, _, _| Ok(gate != stop)).await?;
            assert_eq!(outcome, Outcome::Reverted, "{stop:?}");
            assert_eq!(cluster.rule().await?.dst, "/srv/world-v1", "{stop:?}");
            all(&cluster, 200, "world").await?;
        }
        unharmed(load).await;
        Ok::<_, BoxError>(())
    };
    timeout(LONG, story).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_second_delivery_is_refused_while_one_is_under_way() {
    let story = async {
        let mut cluster = Cluster::start().await?;
        for (marked, expected) in [
            ("/tmp/world-v1", "dtab is already marked as being deployed!"),
            ("/srv/world", "/host/world => /srv/world is no version"),
        ] {
            cluster.set_rule(marked).await?;
            let refused = deliver(&mut cluster, DOORS, async |_, _, _| Ok(true)).await.unwrap_err();
            assert_eq!(refused.to_string(), expected);
            assert_eq!(cluster.rule().await?.dst, marked);
        }
        Ok::<_, BoxError>(())
    };
    timeout(LONG, story).await.expect("it ends").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_of_ten_requests_are_three_of_ten() {
    let story = async {
        let mut cluster = Cluster::start().await?;
        cluster.deploy("world-v2", DOORS).await?;
        all(&cluster, 200, "world").await?;
        assert_eq!(cluster.requests("world-v2"), 0, "no rule names it");

        let dst = "3 * /srv/world-v2 & 7 * /srv/world-v1";
        cluster.set_rule(dst).await?;
        cluster.settle(dst).await?;
        let share = share(&cluster, DOORS).await?;
        assert!((share - 0.3).abs() <= 0.03, "{share}");
        Ok::<_, BoxError>(())
    };
    timeout(LONG, story).await.expect("it ends").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_three_proxies_within_a_second_and_outages_of_namerd_reach_none() {
    let story = async {
        let mut cluster = Cluster::start().await?;
        cluster.deploy("world-v2", DOORS).await?;
        let load = load(&cluster)?;

        // The fastest, for a machine that has other things to do, too: what waits for its turn to ask is late each time.
        let mut times = Vec::new();
        for (dst, text) in [("/srv/world-v2", DOORS), ("/srv/world-v1", "world")].into_iter().cycle().take(5) {
            cluster.set_rule(dst).await?;
            let answered = Instant::now();
            cluster.answers(text).await?;
            times.push(answered.elapsed());
        }
        times.sort_unstable();
        assert!(times[0] <= Duration::from_secs(1), "{times:?}");

        cluster.kill_namerd();
        assert!(cluster.rule().await.is_err(), "it is gone");
        all(&cluster, 200, DOORS).await?;
        cluster.start_namerd()?;
        assert_eq!(cluster.rule().await?.dst, "/srv/world-v2", "its store was on disk");
        cluster.set_rule("/srv/world-v1").await?;
        cluster.answers("world").await?;
        unharmed(load).await;
        Ok::<_, BoxError>(())
    };
    timeout(LONG, story).await.expect("it ends").unwrap();
}
