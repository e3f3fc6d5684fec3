//! What is shown, and whether it is as it should be.

use std::{fmt::Display, fs, net::SocketAddr, time::Duration};

use linkerd_core::BoxError;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use quickstart::traffic::{Counts, Traffic};

use crate::world::Files;

type Result<T> = std::result::Result<T, BoxError>;

const V1: &str = "Hello world!!";
const V2: &str = "Hello earth!!";

/// How many requests show that all answers are the same.
const FEW: usize = 50;
/// How many show a share, and what the share is.
const MANY: usize = 400;
const SHARE: f64 = 0.3;
/// How far off a share may be: five standard deviations, which chance exceeds once in two million times.
const DEVIATIONS: f64 = 5.0;

const SHIFT: &str = "3 * /srv/world-v2 & 7 * /srv/world-v1";
const OVERRIDE: (&str, &str) = ("l5d-dtab", "/host/world => /srv/world-v2");

/// How long a change of the rules may take to be seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says what runs where.
pub(crate) fn introduce(files: &Files, yaml: &str, proxy: SocketAddr, admin: SocketAddr) {
    println!("world-v1 (says world), world-v2 (says earth), hello (calls world) and api (calls hello) are running.");
    println!("They are listed in  {}", files.disco().display());
    println!("The rules are in    {}", files.rules().display());
    println!("The proxy is at     http://{proxy}");
    println!("Its admin pages:    http://{admin}/");
    println!("\nIts configuration, which `linkerd FILE` takes as well (port 0 is any free port):\n");
    print!("{}", indented(yaml));
    println!("\nThe rules:\n");
    print!("{}", indented(&fs::read_to_string(files.rules()).unwrap_or_default()));
}

/// Says what to try.
pub(crate) fn invite(files: &Files, proxy: SocketAddr, admin: SocketAddr) {
    let (name, dtab) = OVERRIDE;
    let rules = files.rules();
    let rules = rules.display();
    println!(
        "
Yours to play with, until Ctrl-C:

  curl -H 'Host: hello' http://{proxy}/
  curl -H 'Host: hello' -H '{name}: {dtab}' http://{proxy}/
  http_proxy={proxy} curl http://hello/
  http_proxy={proxy} curl http://api/

  sed -i.bak 's,^/host/world .*,/host/world => 1 * /srv/world-v2 \\& 1 * /srv/world-v1 ;,' {rules}
  for i in 1 2 3 4 5 6 7 8 9 10; do curl -sH 'Host: hello' http://{proxy}/; echo; done

  curl 'http://{admin}/delegator.json?namespace=demo&path=/svc/world'
  curl http://{admin}/admin/metrics/prometheus
  curl http://{admin}/admin/metrics.json?pretty=true
  curl http://{admin}/state.json
  curl http://{admin}/bound-names.json
  curl http://{admin}/config.json"
    );
}

/// Shows it all.
///
/// # Errors
///
/// The first thing that is not as it should be.
pub(crate) async fn show(files: &Files, proxy: SocketAddr, admin: SocketAddr) -> Result<()> {
    let hello = Traffic::to(proxy, "hello")?;
    let pages = Traffic::to(admin, "admin")?;

    step("All requests go to version 1.");
    settle(&hello, &pages, V1, &["world-v1"]).await?;
    all(&hello.count(FEW, None).await?, V1)?;

    step("Version 2 gets three of ten: one line of the rules is edited.");
    println!("  /host/world => {SHIFT}");
    files.write_rules(SHIFT)?;
    settle(&hello, &pages, V2, &["world-v1", "world-v2"]).await?;
    share(&hello.count(MANY, None).await?, V2, V1)?;

    step("One request says in a header that it is for version 2, and so is the call that is made for it.");
    println!("  {}: {}", OVERRIDE.0, OVERRIDE.1);
    all(&hello.count(FEW, Some(OVERRIDE)).await?, V2)?;
    println!("  the others stay as they were:");
    share(&hello.count(MANY, None).await?, V2, V1)?;

    step("And back.");
    println!("  /host/world => /srv/world-v1");
    files.write_rules("/srv/world-v1")?;
    settle(&hello, &pages, V1, &["world-v1"]).await?;
    all(&hello.count(FEW, None).await?, V1)?;

    step("What the proxy says of itself.");
    look(&pages, "/admin/ping", "pong").await?;
    look(&pages, "/admin/metrics/prometheus", "rt:server:requests").await?;
    look(&pages, "/state.json", "/svc/world").await?;
    look(&pages, "/bound-names.json", "/#/io.l5d.fs/world-v2").await?;
    let api = Traffic::to(proxy, "api")?.get("/", None).await?;
    let expected = format!(r#"{{"api_result":"api {V1}"}}"#);
    check(api.status == 200 && api.body.trim_end() == expected, "api's answer", &api.body)
}

/// Waits until the rules that were written are in force.
async fn settle(hello: &Traffic, pages: &Traffic, expected: &str, services: &[&str]) -> Result<()> {
    let seen = async {
        loop {
            let bound = bound(pages).await?;
            // Of the two versions exactly these: each is the end of one way through the rules.
            if bound == services && hello.get("/", None).await?.body == expected {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, seen).await.map_err(|_| format!("no {expected:?} within {PATIENCE:?}"))?
}

/// What `/svc/world` is bound to, sorted.
async fn bound(pages: &Traffic) -> Result<Vec<String>> {
    let explained = pages.get("/delegator.json?namespace=demo&path=/svc/world", None).await?;
    let tree: Value = serde_json::from_str(&explained.body)?;
    let mut found = Vec::new();
    leaves(&tree, &mut found);
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The services that an explanation ends at.
fn leaves(tree: &Value, found: &mut Vec<String>) {
    match tree {
        Value::Object(members) => {
            let id = members.get("bound").and_then(|bound| bound.get("id")).and_then(Value::as_str);
            found.extend(id.and_then(|id| id.rsplit('/').next()).map(str::to_owned));
            members.values().for_each(|member| leaves(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        _ => {}
    }
}

fn all(counts: &Counts, answer: &str) -> Result<()> {
    println!("  {} requests: {counts}", counts.total());
    check(counts.of(answer) == counts.total(), &format!("not all answers are {answer:?}"), counts)
}

fn share(counts: &Counts, new: &str, old: &str) -> Result<()> {
    let (total, hits) = (counts.total() as f64, counts.of(new) as f64);
    println!("  {} requests: {counts}; {:.1} % are for version 2", counts.total(), 100.0 * hits / total);
    check(counts.of(new) + counts.of(old) == counts.total(), "other answers than the two expected", counts)?;
    let off = (hits - SHARE * total).abs();
    check(off <= DEVIATIONS * (total * SHARE * (1.0 - SHARE)).sqrt(), "the share is not three of ten", counts)
}

async fn look(pages: &Traffic, page: &str, expected: &str) -> Result<()> {
    let answer = pages.get(page, None).await?;
    println!("  {} {page}: {} bytes", answer.status, answer.body.len());
    check(answer.status == 200 && answer.body.contains(expected), &format!("{page} has no {expected:?}"), answer.body)
}

fn check(holds: bool, claim: &str, shown: impl Display) -> Result<()> {
    if holds { Ok(()) } else { Err(format!("{claim}: {shown}").into()) }
}

fn step(text: &str) {
    println!("\n{text}");
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}
