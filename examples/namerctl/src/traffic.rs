//! What the proxies carry: by name and by client, from their admin pages or from a Prometheus.

use std::{collections::HashMap, time::Duration};

use http::{Method, StatusCode};
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
    pub(crate) names: HashMap<String, f64>,
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
    Name(String),
    Client(String),
}

type Counts = HashMap<Of, f64>;

impl Wanted<'_> {
    /// What these proxies carry together.
    pub(crate) async fn of_proxies(&self, urls: &[String]) -> Result<Traffic, Error> {
        let window = self.window.unwrap_or(PROXY_WINDOW);
        let mut clients = Vec::new();
        for url in urls {
            clients.push(self.client(url)?);
        }
        let before = if window.is_zero() { Vec::new() } else { self.sample(&clients).await? };
        let start = tokio::time::Instant::now();
        tokio::time::sleep(window).await;
        let after = self.sample(&clients).await?;
        let seconds = start.elapsed().as_secs_f64();
        if window.is_zero() {
            return Ok(Traffic::of(after.into_iter().flatten(), false));
        }
        let counts = before.iter().zip(after).flat_map(|(before, after)| grown(before, after));
        Ok(Traffic::of(counts.map(|(of, count)| (of, count / seconds)), true))
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

    async fn sample(&self, clients: &[Client]) -> Result<Vec<Counts>, Error> {
        let mut samples = Vec::new();
        for client in clients {
            let answer = client.ask(Call::new(Method::GET, "/admin/metrics.json")).await?;
            if answer.head.status != StatusCode::OK {
                let status = answer.status();
                return Err(Error::Other(format!("{} answers {status}", client.url("/admin/metrics.json"))));
            }
            samples.push(self.of_metrics(&answer.json()?));
        }
        Ok(samples)
    }

    /// The counters of a proxy: `rt/<router>/service/<name>/requests`, and the same of clients.
    fn of_metrics(&self, metrics: &HashMap<String, Value>) -> Counts {
        let mut counts = Counts::new();
        for (key, value) in metrics {
            let Some(count) = value.as_f64() else { continue };
            let Some((router, kind, name)) = split(key) else { continue };
            // A client's requests are counted once more for each name they were for.
            let is_part =
                |(client, _): (&str, &str)| metrics.contains_key(&format!("rt/{router}/client/{client}/requests"));
            let of = match kind {
                "service" => Of::Name(name.into()),
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
            let of = if kind == "service" { Of::Name(name) } else { Of::Client(name) };
            self.wants(metric.get("rt").map_or("", |router| router)).then_some((of, count))
        });
        series.collect()
    }

    fn wants(&self, router: &str) -> bool {
        self.routers.is_empty() || self.routers.iter().any(|wanted| wanted == router)
    }
}

impl Traffic {
    fn of(counts: impl Iterator<Item = (Of, f64)>, is_rate: bool) -> Self {
        let mut traffic = Self { is_rate, ..Self::default() };
        for (of, count) in counts {
            let (map, name) = match of {
                Of::Name(name) => (&mut traffic.names, name),
                Of::Client(id) => (&mut traffic.clients, id),
            };
            *map.entry(name.trim_start_matches('/').to_owned()).or_default() += count;
        }
        traffic
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.is_rate |= other.is_rate;
        for (map, other) in [(&mut self.names, other.names), (&mut self.clients, other.clients)] {
            for (name, count) in other {
                *map.entry(name).or_default() += count;
            }
        }
        self
    }
}

/// The router, the kind and the name of a counter of requests.
fn split(key: &str) -> Option<(&str, &str, &str)> {
    let (router, rest) = key.strip_prefix("rt/")?.strip_suffix("/requests")?.split_once('/')?;
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
        Traffic::of(wanted.of_metrics(&metrics).into_iter(), false)
    }

    fn map(of: &[(&str, f64)]) -> HashMap<String, f64> {
        of.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
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
        assert_eq!(all.names, map(&[("svc/web", 10.0), ("svc/client/x", 1.0)]));
        assert_eq!(all.clients, map(&[("%/fs/web", 6.0), ("%/consul/service/web", 2.0)]));
        assert_eq!(counts(metrics, &["in".into()]).names, map(&[("svc/web", 3.0)]));
    }

    #[test]
    fn what_began_again_counts_from_nothing() {
        let of = |count| Counts::from([(Of::Name("a".into()), count)]);
        assert_eq!(grown(&of(5.0), of(8.0)), [(Of::Name("a".into()), 3.0)]);
        assert_eq!(grown(&of(5.0), of(2.0)), [(Of::Name("a".into()), 2.0)]);
        assert_eq!(grown(&Counts::new(), of(2.0)), [(Of::Name("a".into()), 2.0)]);
    }
}
