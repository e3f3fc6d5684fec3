//! `plan`: which names a file would move, from where to where, and how much of the traffic that is.

use std::{collections::BTreeMap, fmt::Write as _};

use linkerd_dtab::namerd::Owned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::said;
use crate::{
    cli::PlanArgs,
    client::Tls,
    error::{Error, Outcome},
    namerd::{Body, Namerd},
    note,
    table::{Source, json as go_json},
    text::{Align, columns, percent},
    traffic::{Asks, Traffic, Wanted, canonical},
};

/// What namerd makes of a table that is not written.
#[derive(Debug, Deserialize)]
pub(super) struct Plan {
    namespace: String,
    #[serde(default)]
    names: Vec<NamePlan>,
    /// How many names there are, with those that do not move; `None` if all are in `names`.
    looked_at: Option<usize>,
    /// Why it would be refused.
    #[serde(default)]
    errors: Vec<Value>,
    #[serde(default)]
    pub(super) warnings: Vec<Value>,
    /// What becomes of names under tables that one may not read, if it changes such.
    elsewhere: Option<Elsewhere>,
}

/// How many names change that one may not know. `None`: namerd does not tell.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Elsewhere {
    /// That lead elsewhere.
    moved: Option<usize>,
    /// Of these that would have no endpoints.
    lost: Option<usize>,
    /// Of these that would have none for a part of their requests.
    partly: Option<usize>,
    /// Of those that lead elsewhere that begin with what the table may define.
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<usize>,
    /// What that is, if it is limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owns: Vec<String>,
}

/// The names that move and that one may not know.
#[derive(Clone, Debug, Default)]
pub(super) struct Hidden {
    /// How many of them begin with these prefixes.
    pub(super) own: usize,
    pub(super) owns: Vec<Owned>,
    /// How many do not, or may not.
    pub(super) others: usize,
}

/// A name that somebody uses.
#[derive(Debug, Deserialize, Serialize)]
struct NamePlan {
    name: String,
    /// Of the table that it is bound under, if that is another one than the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// The table that its clients have on top of that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    dtab: String,
    /// Under how many tables it is bound, with those that it does not move under.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    tables: usize,
    /// Which share of its requests goes elsewhere, from 0 to 1.
    moved: f64,
    before: Vec<Part>,
    after: Vec<Part>,
    /// Which share would find no endpoint that finds one now.
    #[serde(default, skip_serializing_if = "is_zero")]
    lost: f64,
    /// Its requests, and those that go elsewhere; only where traffic is known.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    requests: Option<f64>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none", rename = "requestsMoved")]
    requests_moved: Option<f64>,
}

/// A client's part of a name's requests.
#[derive(Debug, Deserialize, Serialize)]
struct Part {
    /// `None`: there is no such name, and these fail.
    id: Option<String>,
    share: f64,
    #[serde(default)]
    endpoints: Vec<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    names: &'a [NamePlan],
    errors: &'a [Value],
    warnings: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    elsewhere: Option<&'a Elsewhere>,
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

/// What a client has and would have of the names that move; without an id, what fails of these.
#[derive(Debug, Serialize)]
struct Load {
    id: Option<String>,
    /// By the weights of the tables, so that no requests that happened to be picked otherwise are in it.
    now: f64,
    then: f64,
    /// What it counted, of all names. What goes nowhere is counted by no client.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<f64>,
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
    let mut plan = planned(&namerd, name, source.body()).await?;
    let traffic = match traffic(args, tls).await? {
        Some(traffic) => Some(weigh(&plan.namespace, &mut plan.names, &traffic)),
        None => None,
    };
    let Plan { namespace, names, looked_at, errors, warnings, elsewhere } = &plan;
    // What namerd would refuse has no effect, and what `--strict` is for is a no too: also if nobody can tell.
    let elsewhere = elsewhere.as_ref();
    let is_unknown = elsewhere.is_some_and(|elsewhere| elsewhere.moved.is_none());
    let is_fit = errors.is_empty() && !(args.strict && (plan.loses() || is_unknown));
    if as_json {
        let report = Report { namespace, names, errors, warnings, elsewhere, traffic };
        return Ok(Outcome::answer(go_json(&report) + "\n", is_fit));
    }
    for (kind, texts) in [("error", errors), ("warning", warnings)] {
        for text in texts {
            note(&format!("{kind}: {}", said(text)));
        }
    }
    let all = looked_at.unwrap_or(names.len());
    Ok(Outcome::answer(shown(names, all, elsewhere, traffic.as_ref()), is_fit))
}

/// What namerd makes of this table.
pub(super) async fn planned(namerd: &Namerd, name: &str, body: Body) -> Result<Plan, Error> {
    namerd.try_out("plan", name, body).await?.json()
}

impl Plan {
    /// Whether names in use would have no endpoints.
    pub(super) fn loses(&self) -> bool {
        let loses_some = |elsewhere: &Elsewhere| elsewhere.lost.max(elsewhere.partly) > Some(0);
        self.names.iter().any(|name| name.lost > 0.0) || self.elsewhere.as_ref().is_some_and(loses_some)
    }

    /// The names that move and that one may not know.
    pub(super) fn hidden(&self) -> Hidden {
        let Some(elsewhere) = &self.elsewhere else { return Hidden::default() };
        let moved = elsewhere.moved.unwrap_or_default();
        // A prefix that is not understood owns nothing here.
        let owns = elsewhere.owns.iter().map(|owned| owned.parse()).collect::<Result<Vec<Owned>, _>>();
        match owns {
            Ok(owns) if !owns.is_empty() => {
                let own = elsewhere.own.unwrap_or_default().min(moved);
                Hidden { own, owns, others: moved - own }
            }
            _ => Hidden { others: moved, ..Hidden::default() },
        }
    }

    /// The table that is planned.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The names that move, each with the table that it moves under.
    pub(super) fn moving(&self) -> impl Iterator<Item = (Asks, &str)> {
        let moving = self.names.iter().filter(|name| name.moved > 0.0);
        moving.map(|name| (name.asks(&self.namespace), name.bare()))
    }
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks.
fn is_one(tables: &usize) -> bool {
    *tables == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks.
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

async fn traffic(args: &PlanArgs, tls: &Tls) -> Result<Option<Traffic>, Error> {
    let wanted = Wanted { window: args.window, routers: &args.proxies.router, tls };
    let of_proxies = match &*args.proxies.proxy {
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

impl NamePlan {
    /// How many requests are for it under this table: of routers that say what they ask, and an equal part of the others.
    fn requests(&self, planned: &str, traffic: &Traffic) -> f64 {
        let count = |asks| traffic.names.get(&(asks, self.bare().to_owned())).copied().unwrap_or_default();
        count(self.asks(planned)) + count(Asks::Unknown) / self.tables.max(1) as f64
    }

    /// What a router asks that has this name bound under this table.
    fn asks(&self, planned: &str) -> Asks {
        let namespace = self.namespace.as_deref().unwrap_or(planned);
        Asks::Table(namespace.to_owned(), canonical(&self.dtab))
    }

    /// The name as counters have it.
    fn bare(&self) -> &str {
        self.name.trim_start_matches('/')
    }
}

/// Says how many requests each name has, and what becomes of the whole.
fn weigh(namespace: &str, names: &mut [NamePlan], traffic: &Traffic) -> Weighed {
    // The sum of no floats is -0.
    let total = traffic.names.values().sum::<f64>() + 0.0;
    let mut moved = 0.0;
    let mut changes: BTreeMap<Option<&str>, (f64, f64)> = BTreeMap::new();
    for name in names.iter_mut() {
        let requests = name.requests(namespace, traffic);
        name.requests = Some(requests);
        name.requests_moved = Some(requests * name.moved);
        moved += requests * name.moved;
    }
    for name in names.iter().filter(|name| name.moved > 0.0) {
        let requests = name.requests.unwrap_or_default();
        for part in &name.before {
            changes.entry(part.id.as_deref()).or_default().0 += requests * part.share;
        }
        for part in &name.after {
            changes.entry(part.id.as_deref()).or_default().1 += requests * part.share;
        }
    }
    let load = |(id, (now, then)): (Option<&str>, (f64, f64))| {
        let count = |id: &str| traffic.clients.get(id.trim_start_matches('/')).copied().unwrap_or_default();
        Load { id: id.map(str::to_owned), now, then, measured: id.map(count) }
    };
    let mut clients: Vec<_> = changes.into_iter().map(load).collect();
    clients.sort_by_key(|load| load.id.is_none());
    let unit = if traffic.is_rate { "requests/s" } else { "requests" };
    let share = if total > 0.0 { moved / total } else { 0.0 };
    Weighed { unit, total, moved, share, clients }
}

fn shown(names: &[NamePlan], all: usize, elsewhere: Option<&Elsewhere>, traffic: Option<&Weighed>) -> String {
    let moving: Vec<_> = names.iter().filter(|name| name.moved > 0.0).collect();
    let of_others = elsewhere.map_or_else(String::new, Elsewhere::shown);
    let count = format!("Names that move: {} of {all}{of_others}\n", moving.len());
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
        let mut row = vec![name.shown(), percent(name.moved), parts(&name.before), parts(&name.after)];
        if let Some(requests) = name.requests_moved {
            row.insert(2, format!("{requests:.1}"));
        }
        rows.push(row);
    }
    let mut text = columns(&rows, &align);
    if let Some(Weighed { unit: lower, total, moved, share, clients }) = traffic {
        let head = ["CLIENT", &format!("{unit} NOW"), "THEN", "MEASURED"].map(String::from);
        let row = |Load { id, now, then, measured }: &Load| {
            let client = id.clone().unwrap_or_else(|| NOWHERE.into());
            let measured = measured.map_or_else(|| "-".into(), |count| format!("{count:.1}"));
            [client, format!("{now:.1}"), format!("{then:.1}"), measured].to_vec()
        };
        let rows: Vec<_> = std::iter::once(head.to_vec()).chain(clients.iter().map(row)).collect();
        text.push('\n');
        text += &columns(&rows, &[Align::Left, Align::Right, Align::Right, Align::Right]);
        let of = if *total > 0.0 { percent(*share) } else { "none were seen".into() };
        let least = if elsewhere.is_some() { "at least " } else { "" };
        let _ = writeln!(text, "\n{least}{moved:.1} of {total:.1} {lower} move: {of}");
    }
    text + &count
}

impl Elsewhere {
    fn shown(&self) -> String {
        match self.moved {
            Some(moved) => format!("; {moved} elsewhere, which you may not read"),
            None => "; how many elsewhere is not told".into(),
        }
    }
}

impl NamePlan {
    /// The name, and what else tells it from the same name under other tables.
    fn shown(&self) -> String {
        let mut text = self.name.clone();
        if let Some(namespace) = &self.namespace {
            let _ = write!(text, " in {namespace}");
        }
        if !self.dtab.is_empty() {
            let _ = write!(text, " with {}", self.dtab);
        }
        text
    }
}

/// Where there is no name.
const NOWHERE: &str = "(nowhere)";

/// `/#/a 90.0 % & /#/b 10.0 %`, each with how many endpoints it has.
fn parts(parts: &[Part]) -> String {
    if parts.is_empty() {
        return NOWHERE.into();
    }
    let part = |Part { id, share, endpoints }: &Part| {
        let share = if *share < 1.0 { format!(" {}", percent(*share)) } else { String::new() };
        let Some(id) = id else { return format!("{NOWHERE}{share}") };
        let count = match endpoints.len() {
            1 => "1 endpoint".to_owned(),
            many => format!("{many} endpoints"),
        };
        format!("{id}{share} ({count})")
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" & ")
}
