//! `plan`: which names a file would move, from where to where, and how much of the traffic that is.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::said;
use crate::{
    cli::PlanArgs,
    client::Tls,
    error::{Error, Outcome},
    namerd::Namerd,
    note,
    table::{Source, json as go_json},
    text::{Align, columns, percent},
    traffic::{Traffic, Wanted},
};

/// What namerd makes of a table that is not written.
#[derive(Debug, Deserialize)]
struct Plan {
    namespace: String,
    #[serde(default)]
    names: Vec<NamePlan>,
    #[serde(default)]
    warnings: Vec<Value>,
}

/// A name that somebody uses.
#[derive(Debug, Deserialize, Serialize)]
struct NamePlan {
    name: String,
    /// Which share of its requests goes elsewhere, from 0 to 1.
    moved: f64,
    before: Vec<Part>,
    after: Vec<Part>,
    /// Its requests, and those that go elsewhere; only where traffic is known.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    requests: Option<f64>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none", rename = "requestsMoved")]
    requests_moved: Option<f64>,
}

/// A client's part of a name's requests.
#[derive(Debug, Deserialize, Serialize)]
struct Part {
    id: String,
    share: f64,
    #[serde(default)]
    endpoints: Vec<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    names: &'a [NamePlan],
    warnings: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Weighed>,
}

/// The whole of the traffic.
#[derive(Debug, Serialize)]
struct Weighed {
    /// `requests/s`, or `requests` for all since the proxies started.
    unit: &'static str,
    total: f64,
    moved: f64,
    /// Of the total, from 0 to 1.
    share: f64,
    clients: Vec<Load>,
}

/// What a client has and would have.
#[derive(Debug, Serialize)]
struct Load {
    id: String,
    now: f64,
    then: f64,
}

pub(super) async fn plan(
    connect: impl Fn() -> Result<Namerd, Error>,
    args: &PlanArgs,
    tls: &Tls,
    as_json: bool,
) -> Result<Outcome, Error> {
    let (name, file) = args.of.both("plan requires a name and file path")?;
    let namerd = connect()?;
    let source = Source::read(file)?;
    let mut plan: Plan = namerd.try_out("plan", name, source.body()).await?.json()?;
    let traffic = match traffic(args, tls).await? {
        Some(traffic) => Some(weigh(&mut plan.names, &traffic)),
        None => None,
    };
    let Plan { namespace, names, warnings } = &plan;
    if as_json {
        return Ok(Outcome::ok(go_json(&Report { namespace, names, warnings, traffic }) + "\n"));
    }
    for warning in warnings {
        note(&format!("warning: {}", said(warning)));
    }
    Ok(Outcome::ok(shown(names, traffic.as_ref())))
}

async fn traffic(args: &PlanArgs, tls: &Tls) -> Result<Option<Traffic>, Error> {
    let wanted = Wanted { window: args.window, routers: &args.router, tls };
    let of_proxies = match &*args.proxy {
        [] => None,
        urls => Some(wanted.of_proxies(urls).await?),
    };
    let of_prometheus = match &args.metrics {
        None => None,
        Some(url) => Some(wanted.of_prometheus(url).await?),
    };
    Ok(match (of_proxies, of_prometheus) {
        (Some(one), Some(other)) => Some(one.and(other)),
        (one, other) => one.or(other),
    })
}

/// Says how many requests each name has, and what becomes of the whole.
fn weigh(names: &mut [NamePlan], traffic: &Traffic) -> Weighed {
    let count = |counts: &HashMap<String, f64>, name: &str| {
        counts.get(name.trim_start_matches('/')).copied().unwrap_or_default()
    };
    // The sum of no floats is -0.
    let total = traffic.names.values().sum::<f64>() + 0.0;
    let mut moved = 0.0;
    let mut change: BTreeMap<&str, f64> = BTreeMap::new();
    for name in names.iter_mut() {
        let requests = count(&traffic.names, &name.name);
        name.requests = Some(requests);
        name.requests_moved = Some(requests * name.moved);
        moved += requests * name.moved;
    }
    for name in names.iter().filter(|name| name.moved > 0.0) {
        let requests = name.requests.unwrap_or_default();
        for part in &name.before {
            *change.entry(&part.id).or_default() -= requests * part.share;
        }
        for part in &name.after {
            *change.entry(&part.id).or_default() += requests * part.share;
        }
    }
    let clients = change.into_iter().map(|(id, change)| {
        let now = count(&traffic.clients, id);
        // What was measured is never quite what the weights say.
        Load { id: id.to_owned(), now, then: (now + change).max(0.0) }
    });
    let unit = if traffic.is_rate { "requests/s" } else { "requests" };
    let share = if total > 0.0 { moved / total } else { 0.0 };
    Weighed { unit, total, moved, share, clients: clients.collect() }
}

fn shown(names: &[NamePlan], traffic: Option<&Weighed>) -> String {
    let moving: Vec<_> = names.iter().filter(|name| name.moved > 0.0).collect();
    let count = format!("Names that move: {} of {}\n", moving.len(), names.len());
    if moving.is_empty() {
        return count;
    }
    let unit = traffic.map_or("", |traffic| traffic.unit).to_uppercase();
    let mut head: Vec<_> = ["NAME", "MOVED", "FROM", "TO"].map(String::from).to_vec();
    let mut align = vec![Align::Left, Align::Right, Align::Left, Align::Left];
    if traffic.is_some() {
        head.insert(2, format!("{unit} MOVED"));
        align.insert(2, Align::Right);
    }
    let mut rows = vec![head];
    for name in &moving {
        let mut row = vec![name.name.clone(), percent(name.moved), parts(&name.before), parts(&name.after)];
        if let Some(requests) = name.requests_moved {
            row.insert(2, format!("{requests:.1}"));
        }
        rows.push(row);
    }
    let mut text = columns(&rows, &align);
    if let Some(Weighed { unit: lower, total, moved, share, clients }) = traffic {
        let mut rows = vec![vec!["CLIENT".into(), format!("{unit} NOW"), "THEN".into()]];
        let row = |load: &Load| vec![load.id.clone(), format!("{:.1}", load.now), format!("{:.1}", load.then)];
        rows.extend(clients.iter().map(row));
        text.push('\n');
        text += &columns(&rows, &[Align::Left, Align::Right, Align::Right]);
        let of = if *total > 0.0 { percent(*share) } else { "none were seen".into() };
        let _ = writeln!(text, "\n{moved:.1} of {total:.1} {lower} move: {of}");
    }
    text + &count
}

/// `/#/a 90.0 % & /#/b 10.0 %`, each with how many endpoints it has.
fn parts(parts: &[Part]) -> String {
    if parts.is_empty() {
        return "(nowhere)".into();
    }
    let part = |Part { id, share, endpoints }: &Part| {
        let count = match endpoints.len() {
            1 => "1 endpoint".to_owned(),
            many => format!("{many} endpoints"),
        };
        let share = if *share < 1.0 { format!(" {}", percent(*share)) } else { String::new() };
        format!("{id}{share} ({count})")
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" & ")
}
