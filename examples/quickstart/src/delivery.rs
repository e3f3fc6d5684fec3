//! A new version of `world` goes live: beside the old one, tried by a header, by a tenth of the traffic, by all of it.

use std::time::Duration;

use linkerd_core::BoxError;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, RULE};

/// How long a new version may take until it answers who asks for it, and how often it is asked until then.
const INTEGRATED: Duration = Duration::from_mins(1);
const BETWEEN: Duration = Duration::from_millis(50);

/// Where a delivery waits for somebody to say that it may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The new version runs and is reached with a header; nobody else gets it.
    Tested,
    /// It gets one of ten requests.
    Tenth,
    /// It gets all; the old one gets them if the new one is away.
    All,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new version is the version.
    Delivered,
    /// The old one still is, and the new one is gone.
    Reverted,
}

/// The versions of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The one in use, such as `world-v1`.
    pub current: String,
    /// The one that comes.
    pub new: String,
}

impl Gate {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::Tested, Self::Tenth, Self::All];
}

impl Versions {
    fn of(dst: &str) -> Result<Self, BoxError> {
        if dst.starts_with("/tmp") {
            return Err("dtab is already marked as being deployed!".into());
        }
        let number = dst.strip_prefix("/srv/world-v").and_then(|number| number.parse::<u32>().ok());
        let number = number.ok_or_else(|| format!("{RULE} => {dst} is no version"))?;
        Ok(Self { current: format!("world-v{number}"), new: format!("world-v{}", number + 1) })
    }

    /// The header that has one request answered by the new version.
    #[must_use]
    pub fn header(&self) -> (&'static str, String) {
        ("l5d-dtab", format!("{RULE} => /tmp/{}", self.new))
    }

    /// What the rule is at a gate.
    #[must_use]
    pub fn dst(&self, gate: Gate) -> String {
        let Self { current, new } = self;
        match gate {
            Gate::Tested => format!("/tmp/{current}"),
            Gate::Tenth => format!("1 * /tmp/{new} & 9 * /tmp/{current}"),
            Gate::All => format!("/tmp/{new} | /tmp/{current}"),
        }
    }
}

/// Delivers a version that answers `text`. At each gate it goes on with `true`; else it goes back to what was.
///
/// # Errors
///
/// One is being delivered already, or a step fails: what is then is left for somebody to look at.
pub async fn deliver(
    cluster: &mut Cluster,
    text: &str,
    mut gate: impl AsyncFnMut(Gate, &Versions, &mut Cluster) -> Result<bool, BoxError>,
) -> Result<Outcome, BoxError> {
    let original = cluster.rule().await?.dst;
    let versions = Versions::of(&original)?;
    cluster.set_rule(&versions.dst(Gate::Tested)).await?;
    cluster.deploy(&versions.new, text).await?;
    for at in Gate::ALL {
        let dst = versions.dst(at);
        if at == Gate::Tested {
            integrate(cluster, &versions).await?;
        } else {
            cluster.set_rule(&dst).await?;
        }
        cluster.settle(&dst).await?;
        if !gate(at, &versions, cluster).await? {
            cluster.set_rule(&original).await?;
            cluster.settle(&original).await?;
            cluster.remove(&versions.new).await?;
            return Ok(Outcome::Reverted);
        }
    }
    let dst = format!("/srv/{}", versions.new);
    cluster.set_rule(&dst).await?;
    cluster.settle(&dst).await?;
    cluster.remove(&versions.current).await?;
    Ok(Outcome::Delivered)
}

/// Through each node a request must be answered by the new version. Its rule is known there a moment after it was changed.
async fn integrate(cluster: &Cluster, versions: &Versions) -> Result<(), BoxError> {
    let (name, dtab) = versions.header();
    for node in cluster.nodes() {
        let traffic = node.enter()?;
        let by = Instant::now() + INTEGRATED;
        loop {
            let answer = traffic.get("/", Some((name, &dtab))).await;
            match answer {
                Ok(answer) if answer.status == 200 => break,
                answer if Instant::now() >= by => return Err(format!("could not reach new service: {answer:?}").into()),
                _ => sleep(BETWEEN).await,
            }
        }
    }
    Ok(())
}
