//! The demonstration of a delivery: each step with what it does to the traffic.

use linkerd_core::BoxError;
use quickstart::{
    cluster::{Cluster, Node, RULE},
    delivery::{Gate, Versions, deliver},
    load::Load,
    traffic::Counts,
};

type Result<T> = std::result::Result<T, BoxError>;

const TEXT: &str = "hal, open the pod bay doors";
/// How often a second each node is asked all the time.
const LOAD: u32 = 30;
/// How many requests show who answers.
const FEW: usize = 100;

/// Says what runs where.
pub(crate) fn introduce(cluster: &Cluster) {
    println!("Three nodes, each with hello, world-v1 and two proxies; and a namerd, which all proxies ask.\n");
    for node in cluster.nodes() {
        println!(
            "  node {}: http://{}/ is hello, which calls world through {}; asks namerd by {:?}; admin pages http://{}/",
            node.number(),
            node.external(),
            node.internal(),
            node.interpreter(),
            node.admin()
        );
    }
    println!("  namerd: http://{}, admin pages {}", cluster.namerd(), admin(cluster));
    println!("\nEach node is asked {LOAD} times a second until the end.");
}

/// Delivers a version, then fails over, then tries the next one and takes it back.
///
/// # Errors
///
/// The first thing that is not as it should be.
pub(crate) async fn show(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster.nodes().iter().map(Node::external), LOAD)?;
    step("Version 1 is in use.");
    count(cluster).await?;

    deliver(cluster, TEXT, async |gate, versions, cluster| {
        look(gate, versions, cluster).await?;
        Ok(true)
    })
    .await?;
    step("Clean up: version 2 is in use, version 1 is gone.");
    rule(cluster).await?;
    count(cluster).await?;

    step("The next version gets a tenth, and somebody says no: all as it was.");
    deliver(cluster, "worse", async |gate, _, cluster| {
        rule(cluster).await?;
        count(cluster).await?;
        Ok(gate != Gate::Tenth)
    })
    .await?;
    rule(cluster).await?;
    count(cluster).await?;

    step("What the load has seen of all this:");
    let counts = load.stop().await;
    println!("  {} requests, {} failed", counts.total(), counts.failed());
    if counts.failed() > 0 { Err(format!("requests failed: {counts}").into()) } else { Ok(()) }
}

async fn look(gate: Gate, versions: &Versions, cluster: &mut Cluster) -> Result<()> {
    let Versions { current, new } = versions;
    match gate {
        Gate::Tested => {
            step(&format!("{new} runs beside {current}, and nobody gets it"));
            rule(cluster).await?;
            count(cluster).await?;
            let (name, dtab) = versions.header();
            println!("  but who asks for it:  curl -H '{name}: {dtab}' http://{}/", cluster.nodes()[0].external());
            println!("  {}", cluster.nodes()[0].enter()?.get("/", Some((name, &dtab))).await?.body);
        }
        Gate::Tenth => {
            step("A tenth of the traffic.");
            rule(cluster).await?;
            count(cluster).await?;
        }
        Gate::All => {
            step("All of it, and what is there to fall back to.");
            rule(cluster).await?;
            count(cluster).await?;
            println!("  {new} is taken away:");
            cluster.unlist(new)?;
            cluster.answers("world").await?;
            count(cluster).await?;
            println!("  and comes back:");
            cluster.list(new)?;
            cluster.answers(TEXT).await?;
            count(cluster).await?;
        }
    }
    Ok(())
}

/// Says what to try.
pub(crate) fn invite(cluster: &Cluster) {
    let (namerd, external) = (cluster.namerd(), cluster.nodes()[0].external());
    println!(
        "
Yours to play with, until Ctrl-C:

  curl http://{external}/

  export NAMERCTL_BASE_URL=http://{namerd}
  namerctl dtab get internal
  namerctl dtab history internal
  ls {}",
        cluster.disco().display()
    );
}

fn admin(cluster: &Cluster) -> String {
    cluster.namerd_admin().map_or_else(|| "away".into(), |admin| format!("http://{admin}/"))
}

async fn rule(cluster: &Cluster) -> Result<()> {
    println!("  {RULE} => {}", cluster.rule().await?.dst);
    Ok(())
}

/// Asks each node some times, and says how often which text came.
async fn count(cluster: &Cluster) -> Result<()> {
    let mut counts = Counts::default();
    for node in cluster.nodes() {
        counts.add_all(node.enter()?.count(FEW, None).await?);
    }
    let of = |text| counts.with(&format!(") {text} ("));
    println!(
        "  {} requests: {} x world, {} x {TEXT}, {} x worse, {} failed",
        counts.total(),
        of("world"),
        of(TEXT),
        of("worse"),
        counts.failed()
    );
    if counts.failed() > 0 { Err(format!("requests failed: {counts}").into()) } else { Ok(()) }
}

fn step(text: &str) {
    println!("\n{text}");
}
