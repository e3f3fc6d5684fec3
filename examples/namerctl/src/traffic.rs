//! What the proxies carry: by name and by client, from their admin pages or from a Prometheus.

use std::{collections::HashMap, time::Duration};

use http::{Method, StatusCode};
use linkerd_dtab::Dtab;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    base::Base,
    client::{Call, Client, Tls},
    error::Error,
    namerd::encoded,
};

/// How long a proxy is watched.
const PROXY_WINDOW: Duration = Duration::from_secs(5);

/// How far a Prometheus looks back: two samples at its usual intervals.
const PROMETHEUS_WINDOW: Duration = Duration::from_mins(2);

/// Requests by name and by client, without the slashes that begin them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) names: HashMap<(Asks, String), f64>,
    pub(crate) clients: HashMap<String, f64>,
    /// Whether these are requests a second; else all there were.
    pub(crate) is_rate: bool,
}

/// Which traffic counts.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// `None` for each source's own, zero for all since the start.
    pub(crate) window: Option<Duration>,
    /// Those of these routers; of all if there are none.
    pub(crate) routers: &'a [String],
    pub(crate) tls: &'a Tls,
}

/// What a counter counts.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
enum Of {
    Name(Asks, String),
    Client(String),
}

/// Under which table a router has its names bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asks {
    /// Nobody says.
    Unknown,
    /// Under its own: it asks no namerd.
    Nobody,
    /// Under a namespace's, with its own, in canonical form, on top of it.
    Table(String, String),
}

/// What is asked by each router of a proxy, by label; `None` if it does not tell.
type Routers = Option<HashMap<String, Asks>>;

type Counts = HashMap<Of, f64>;

impl Wanted<'_> {
    /// What these proxies carry together.
    pub(crate) async fn of_proxies(&self, urls: &[String]) -> Result<Traffic, Error> {
        let window = self.window.unwrap_or(PROXY_WINDOW);
        let proxies = self.proxies(urls).await?;
        let before = if window.is_zero() { Vec::new() } else { self.sample(&proxies).await? };
        let start = tokio::time::Instant::now();
        tokio::time::sleep(window).await;
        let after = self.sample(&proxies).await?;
        let seconds = start.elapsed().as_secs_f64();
        if window.is_zero() {
            return Ok(Traffic::of(after.into_iter().flatten(), false));
        }
        let counts = before.iter().zip(after).flat_map(|(before, after)| grown(before, after));
        Ok(Traffic::of(counts.map(|(of, count)| (of, count / seconds)), true))
    }

    /// These proxies, each asked what its routers ask.
    pub(crate) async fn proxies(&self, urls: &[String]) -> Result<Vec<Proxy>, Error> {
        let mut proxies = Vec::new();
        for url in urls {
            let client = self.client(url)?;
            let routers = routers(&client).await?;
            proxies.push(Proxy { client, routers });
        }
        Ok(proxies)
    }

    /// What a Prometheus that scrapes the proxies saw.
    pub(crate) async fn of_prometheus(&self, url: &str) -> Result<Traffic, Error> {
        let window = self.window.unwrap_or(PROMETHEUS_WINDOW);
        let client = self.client(url)?;
        let mut counts = Vec::new();
        for kind in ["service", "client"] {
            let series = format!("rt:{kind}:requests");
            let series = if window.is_zero() { series } else { format!("rate({series}[{}ms])", window.as_millis()) };
            let query = format!("sum by (rt, {kind}) ({series})");
            let call = Call::new(Method::GET, format!("/api/v1/query?query={}", encoded(&query)));
            let answer = client.ask(call).await?;
            if answer.head.status != StatusCode::OK {
                return Err(Error::Other(format!("{url} answers {} to {query}", answer.status())));
            }
            counts.extend(self.of_series(kind, answer.json()?));
        }
        Ok(Traffic::of(counts.into_iter(), !window.is_zero()))
    }

    fn client(&self, url: &str) -> Result<Client, Error> {
        let base: Base = url.parse().map_err(|error| Error::BadBase(format!("{url}: {error}")))?;
        Client::new(base, self.tls, None)
    }

    async fn sample(&self, proxies: &[Proxy]) -> Result<Vec<Counts>, Error> {
        let mut samples = Vec::new();
        for proxy in proxies {
            samples.push(self.of_metrics(&proxy.metrics().await?, &proxy.routers));
        }
        Ok(samples)
    }

    /// The counters of a proxy: `rt/<router>/service/<name>/requests`, and the same of clients.
    fn of_metrics(&self, metrics: &Metrics, routers: &Routers) -> Counts {
        let mut counts = Counts::new();
        for (key, value) in metrics {
            let Some(count) = value.as_f64() else { continue };
            let Some((router, kind, name)) = split(key, "/requests") else { continue };
            // A client's requests are counted once more for each name they were for.
            let is_part =
                |(client, _): (&str, &str)| metrics.contains_key(&format!("rt/{router}/client/{client}/requests"));
            let of = match kind {
                "service" => Of::Name(asks(routers, router), name.into()),
                "client" if !name.split_once("/service/").is_some_and(is_part) => Of::Client(name.into()),
                _ => continue,
            };
            if self.wants(router) {
                *counts.entry(of).or_default() += count;
            }
        }
        counts
    }

    fn of_series(&self, kind: &str, answer: Answer) -> Vec<(Of, f64)> {
        let series = answer.data.result.into_iter().filter_map(|Series { mut metric, value: (_, value) }| {
            let count = value.parse().ok().filter(|count: &f64| count.is_finite())?;
            let name = metric.remove(kind)?;
            let of = if kind == "service" { Of::Name(Asks::Unknown, name) } else { Of::Client(name) };
            self.wants(metric.get("rt").map_or("", |router| router)).then_some((of, count))
        });
        series.collect()
    }

    fn wants(&self, router: &str) -> bool {
        is_of(self.routers, router)
    }
}

impl Traffic {
    fn of(counts: impl Iterator<Item = (Of, f64)>, is_rate: bool) -> Self {
        let bare = |name: &str| name.trim_start_matches('/').to_owned();
        let mut traffic = Self { is_rate, ..Self::default() };
        for (of, count) in counts {
            let sum = match of {
                Of::Name(asks, name) => traffic.names.entry((asks, bare(&name))).or_default(),
                Of::Client(id) => traffic.clients.entry(bare(&id)).or_default(),
            };
            *sum += count;
        }
        traffic
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.is_rate |= other.is_rate;
        for (name, count) in other.names {
            *self.names.entry(name).or_default() += count;
        }
        for (id, count) in other.clients {
            *self.clients.entry(id).or_default() += count;
        }
        self
    }
}

/// The counters of a proxy by their names.
type Metrics = HashMap<String, Value>;

/// A proxy's admin page.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    client: Client,
    routers: Routers,
}

/// How many requests for a name ended well, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ended {
    pub(crate) well: f64,
    pub(crate) badly: f64,
}

impl Proxy {
    /// What it counts.
    async fn metrics(&self) -> Result<Metrics, Error> {
        const PAGE: &str = "/admin/metrics.json";
        let answer = self.client.ask(Call::new(Method::GET, PAGE)).await?;
        if answer.head.status != StatusCode::OK {
            return Err(Error::Other(format!("{} answers {}", self.client.url(PAGE), answer.status())));
        }
        answer.json()
    }

    /// How the requests for names ended since it started, by the group that `group` puts a router and a name into.
    pub(crate) async fn ended<const N: usize>(
        &self,
        group: impl Fn(&str, &Asks, &str) -> Option<usize>,
    ) -> Result<[Ended; N], Error> {
        Ok(ended(&self.metrics().await?, &self.routers, group))
    }
}

fn ended<const N: usize>(
    metrics: &Metrics,
    routers: &Routers,
    group: impl Fn(&str, &Asks, &str) -> Option<usize>,
) -> [Ended; N] {
    let mut groups = [Ended::default(); N];
    for (key, value) in metrics {
        let Some(count) = value.as_f64() else { continue };
        let find = |counter: &str| {
            let (router, kind, name) = split(key, counter)?;
            if kind == "service" { group(router, &asks(routers, router), name) } else { None }
        };
        if let Some(group) = find("/success") {
            groups[group].well += count;
        } else if let Some(group) = find("/failures") {
            groups[group].badly += count;
        }
    }
    groups
}

impl Ended {
    /// What ended since `before`. If there is less now it began again.
    pub(crate) fn since(self, before: Self) -> Self {
        let has_begun_again = self.well < before.well || self.badly < before.badly;
        let before = if has_begun_again { Self::default() } else { before };
        Self { well: self.well - before.well, badly: self.badly - before.badly }
    }
}

/// Whether a router is one of these, or any one is.
pub(crate) fn is_of(wanted: &[String], router: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == router)
}

/// What this router of a proxy asks.
fn asks(routers: &Routers, router: &str) -> Asks {
    routers.as_ref().and_then(|routers| routers.get(router)).cloned().unwrap_or(Asks::Unknown)
}

/// What the routers of a proxy ask, as far as its configuration tells.
async fn routers(client: &Client) -> Result<Routers, Error> {
    let answer = client.ask(Call::new(Method::GET, "/config.json")).await?;
    Ok(answer.json().ok().filter(|_| answer.head.status == StatusCode::OK).map(|config| asked(&config)))
}

/// By the configuration of a proxy, what each of its routers asks.
fn asked(config: &Value) -> HashMap<String, Asks> {
    let routers = config["routers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let labelled = routers.iter().filter_map(|router| {
        let label = router["label"].as_str().or_else(|| router["protocol"].as_str())?;
        let interpreter = &router["interpreter"];
        let text = |key: &str| interpreter[key].as_str().unwrap_or("default");
        let namespace = match interpreter["kind"].as_str() {
            Some("io.l5d.namerd" | "io.l5d.namerd.http") => text("namespace"),
            Some("io.l5d.mesh") => text("root").trim_start_matches('/'),
            _ => return Some((label.to_owned(), Asks::Nobody)),
        };
        let dtab = canonical(router["dtab"].as_str().unwrap_or_default());
        Some((label.to_owned(), Asks::Table(namespace.to_owned(), dtab)))
    });
    labelled.collect()
}

/// A table as it would be written by who parsed it; as it stands if it is none.
pub(crate) fn canonical(dtab: &str) -> String {
    dtab.parse::<Dtab>().map_or_else(|_| dtab.to_owned(), |dtab| dtab.to_string())
}

/// The router, the kind and the name of a counter that is called so.
fn split<'a>(key: &'a str, counter: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (router, rest) = key.strip_prefix("rt/")?.strip_suffix(counter)?.split_once('/')?;
    let (kind, name) = rest.split_once('/')?;
    Some((router, kind, name))
}

/// By how much each grew. One that fell began again.
fn grown(before: &Counts, after: Counts) -> Vec<(Of, f64)> {
    let grew = |(of, now): (Of, f64)| {
        let then = before.get(&of).copied().filter(|&then| then <= now).unwrap_or_default();
        (of, now - then)
    };
    after.into_iter().map(grew).collect()
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: HashMap<String, String>,
    value: (f64, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: Tls = Tls { ca: None, cert: None, key: None };

    fn counts(metrics: &str, routers: &[String]) -> Traffic {
        let wanted = Wanted { window: None, routers, tls: &TLS };
        let metrics = serde_json::from_str(metrics).expect("metrics");
        let routers = Some(HashMap::from([("in".to_owned(), Asks::Nobody)]));
        Traffic::of(wanted.of_metrics(&metrics, &routers).into_iter(), false)
    }

    fn map<K: Eq + std::hash::Hash>(of: &[(&str, f64)], key: impl Fn(String) -> K) -> HashMap<K, f64> {
        of.iter().map(|&(name, count)| (key(name.to_owned()), count)).collect()
    }

    #[test]
    fn requests_are_counted_by_name_and_by_client_once() {
        let metrics = r#"{
            "rt/http/service/svc/web/requests": 7, "rt/http/service/svc/client/x/requests": 1,
            "rt/http/service/svc/web/request_latency_ms.count": 7, "rt/http/service/svc/web/retries/requests/x": 9,
            "rt/http/client/%/fs/web/requests": 6, "rt/http/client/%/fs/web/service/svc/web/requests": 6,
            "rt/http/client/%/consul/service/web/requests": 2,
            "rt/in/service/svc/web/requests": 3, "rt/http/server/127.0.0.1/80/requests": 99, "other": "text"
        }"#;
        let all = counts(metrics, &[]);
        let mut names = map(&[("svc/web", 7.0), ("svc/client/x", 1.0)], |name| (Asks::Unknown, name));
        let of_in = map(&[("svc/web", 3.0)], |name| (Asks::Nobody, name));
        names.extend(of_in.clone());
        assert_eq!(all.names, names);
        assert_eq!(all.clients, map(&[("%/fs/web", 6.0), ("%/consul/service/web", 2.0)], |id| id));
        assert_eq!(counts(metrics, &["in".into()]).names, of_in);
    }

    #[test]
    fn what_began_again_counts_from_nothing() {
        let name = || Of::Name(Asks::Unknown, "a".into());
        let of = |count| Counts::from([(name(), count)]);
        assert_eq!(grown(&of(5.0), of(8.0)), [(name(), 3.0)]);
        assert_eq!(grown(&of(5.0), of(2.0)), [(name(), 2.0)]);
        assert_eq!(grown(&Counts::new(), of(2.0)), [(name(), 2.0)]);
    }

    #[test]
    fn what_ended_is_of_names_that_count_and_never_negative() {
        let metrics = serde_json::json!({
            "rt/http/service/svc/web/success": 7, "rt/http/service/svc/web/failures": 2, "rt/http/service/svc/web/failures/x": 1,
            "rt/http/service/svc/db/success": 50, "rt/http/client/svc/web/success": 9, "rt/in/service/svc/web/failures": 100,
        });
        let metrics = serde_json::from_value(metrics).expect("metrics");
        let [other, now] = ended(&metrics, &None, |router, asks, name| {
            (router == "http" && *asks == Asks::Unknown).then_some(usize::from(name == "svc/web"))
        });
        assert_eq!(other, Ended { well: 50.0, badly: 0.0 });
        assert_eq!(now, Ended { well: 7.0, badly: 2.0 });
        assert_eq!(now.since(Ended { well: 4.0, badly: 2.0 }), Ended { well: 3.0, badly: 0.0 });
        assert_eq!(now.since(Ended { well: 4.0, badly: 3.0 }), now, "it began again");
    }

    #[test]
    fn a_configuration_tells_what_each_router_asks() {
        let config = serde_json::json!({ "routers": [
            { "protocol": "http", "dtab": "/a=>/b ;", "interpreter": { "kind": "io.l5d.namerd" } },
            { "protocol": "http", "label": "mesh", "interpreter": { "kind": "io.l5d.mesh", "root": "/prod" } },
            { "protocol": "h2", "dtab": "/a=>/b", "interpreter": { "kind": "io.l5d.namerd.http", "namespace": "x" } },
            { "protocol": "h2", "label": "local", "dtab": "/a=>/b" },
            { "dtab": "/c=>/d" },
        ]});
        let table = |namespace: &str, dtab: &str| Asks::Table(namespace.into(), dtab.into());
        let expected = [
            ("http", table("default", "/a=>/b")),
            ("mesh", table("prod", "")),
            ("h2", table("x", "/a=>/b")),
            ("local", Asks::Nobody),
        ];
        assert_eq!(asked(&config), expected.map(|(label, asks)| (label.to_owned(), asks)).into());
        assert_eq!(asked(&serde_json::json!([])), HashMap::new());
    }
}
