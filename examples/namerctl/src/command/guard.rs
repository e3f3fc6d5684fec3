//! What a change would do, before it is made, and what it does to the requests that it moves.

use std::{collections::HashSet, time::Duration};

use linkerd_dtab::namerd::revert::{AutoRevert, Sample, Verdict, Watchdog};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{check::said, plan::planned};
use crate::{
    cli::ApplyArgs,
    client::Tls,
    error::Error,
    namerd::{Body, Namerd},
    note,
    traffic::{Asks, Ended, Proxy, Wanted, is_of},
};

/// How long a proxy may take to say how its requests ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command line wants to be looked at.
pub(super) struct Guard<'a> {
    strict: bool,
    watch: Option<(AutoRevert, Wanted<'a>, &'a [String])>,
}

/// What is known before a change is made.
pub(super) enum Outlook {
    /// It is not to be made: names in use would have no endpoints.
    Refused,
    /// Nothing is to be watched.
    Fits,
    /// This is.
    Watch(Watch),
}

/// The requests for names that a change moves, as proxies count them.
pub(super) struct Watch {
    settings: AutoRevert,
    proxies: Vec<Watched>,
    counted: Counted,
}

struct Watched {
    url: String,
    proxy: Proxy,
    /// How its requests had ended when it was asked last.
    last: Ended,
    is_away: bool,
}

/// Which requests count: of these routers, for these names under these tables.
#[derive(Clone)]
struct Counted {
    routers: Vec<String>,
    names: HashSet<(Asks, String)>,
}

/// What came of the requests for names that a change moves.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Seen {
    /// How many names it moves.
    pub(super) names: usize,
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// The success rate that was too low, from 0 to 1.
    #[serde(rename = "tooLow", skip_serializing_if = "Option::is_none")]
    pub(super) too_low: Option<f64>,
    #[serde(skip)]
    pub(super) settings: AutoRevert,
}

impl<'a> Guard<'a> {
    /// By the command line; `None` if that wants nothing to be looked at.
    pub(super) fn new(args: &'a ApplyArgs, tls: &'a Tls) -> Result<Option<Self>, Error> {
        let proxies = &args.proxies;
        let is_idle = proxies.proxy.is_empty() && proxies.router.is_empty();
        let watch = match args.watch {
            None if !is_idle || args.min_success.is_some() || args.min_requests.is_some() => {
                return Err(Error::Other("--proxy, --router, --min-success and --min-requests go with --watch".into()));
            }
            None => None,
            Some(watch_for) if watch_for.is_zero() => return Err(Error::Other("--watch 0 watches nothing".into())),
            Some(_) if proxies.proxy.is_empty() => {
                return Err(Error::Other("--watch needs --proxy: the proxies that count what fails".into()));
            }
            Some(watch_for) => {
                let defaults = AutoRevert::default();
                let settings = AutoRevert {
                    watch_for,
                    window: defaults.window.min(watch_for),
                    min_success: args.min_success.unwrap_or(defaults.min_success),
                    min_requests: args.min_requests.unwrap_or(defaults.min_requests),
                    every: defaults.every.min(watch_for / 10).max(Duration::from_millis(10)),
                };
                let wanted = Wanted { window: None, routers: &proxies.router, tls };
                Some((settings, wanted, &*proxies.proxy))
            }
        };
        Ok((args.strict || watch.is_some()).then_some(Self { strict: args.strict, watch }))
    }

    /// What this table would do, and whether the proxies answer.
    pub(super) async fn look(&self, namerd: &Namerd, name: &str, body: Body) -> Result<Outlook, Error> {
        let plan = planned(namerd, name, body).await?;
        if self.strict && plan.loses() {
            for warning in &plan.warnings {
                note(&format!("warning: {}", said(warning)));
            }
            return Ok(Outlook::Refused);
        }
        let Some((settings, wanted, urls)) = &self.watch else { return Ok(Outlook::Fits) };
        let names = plan.moving().map(|(asks, name)| (asks, name.to_owned())).collect();
        let counted = Counted { routers: wanted.routers.to_vec(), names };
        let mut proxies = Vec::new();
        for (url, proxy) in urls.iter().zip(wanted.proxies(urls).await?) {
            let last = counted.ended(&proxy).await?;
            proxies.push(Watched { url: url.clone(), proxy, last, is_away: false });
        }
        Ok(Outlook::Watch(Watch { settings: *settings, proxies, counted }))
    }
}

impl Counted {
    async fn ended(&self, proxy: &Proxy) -> Result<Ended, Error> {
        proxy.ended(|router, asks, name| self.has(router, asks, name)).await
    }

    fn has(&self, router: &str, asks: &Asks, name: &str) -> bool {
        let is_named = |asks: &Asks| self.names.contains(&(asks.clone(), name.to_owned()));
        // Of a router that does not tell what it asks, all that has such a name.
        let is_any = || *asks == Asks::Unknown && self.names.iter().any(|(_, moving)| moving == name);
        is_of(&self.routers, router) && (is_named(asks) || is_any())
    }
}

impl Watch {
    /// Watches a change that has just been made, until too much fails or the time is over.
    pub(super) async fn run(mut self) -> Seen {
        let settings = self.settings;
        let mut seen = Seen { names: self.counted.names.len(), requests: 0, failures: 0, too_low: None, settings };
        if seen.names == 0 {
            return seen;
        }
        // What ended before the change is not its fault.
        self.sample().await;
        let mut watchdog = Watchdog::new(settings, Instant::now());
        let mut ticks = interval(settings.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let sample = self.sample().await;
            seen.requests += sample.requests;
            seen.failures += sample.failures;
            match watchdog.observe(Instant::now(), sample) {
                Verdict::Revert(rate) => return Seen { too_low: Some(rate), ..seen },
                Verdict::Keep => return seen,
                _ => {}
            }
        }
    }

    /// What ended since the last time. Of a proxy that does not answer nothing is known; it is caught up with.
    async fn sample(&mut self) -> Sample {
        let mut asked = JoinSet::new();
        for (index, watched) in self.proxies.iter().enumerate() {
            let (proxy, counted) = (watched.proxy.clone(), self.counted.clone());
            asked.spawn(async move { (index, timeout(PATIENCE, counted.ended(&proxy)).await) });
        }
        let mut sample = Sample::default();
        while let Some(answered) = asked.join_next().await {
            let Ok((index, answered)) = answered else { continue };
            let watched = &mut self.proxies[index];
            let now = match answered {
                Ok(Ok(now)) => now,
                Ok(Err(error)) => {
                    watched.missed(&error.to_string());
                    continue;
                }
                Err(_) => {
                    watched.missed("no answer in time");
                    continue;
                }
            };
            let Ended { well, badly } = now.since(watched.last);
            (watched.last, watched.is_away) = (now, false);
            sample.requests += (well + badly) as u64;
            sample.failures += badly as u64;
        }
        sample
    }
}

impl Watched {
    /// Says so, once.
    fn missed(&mut self, reason: &str) {
        if !self.is_away {
            note(&format!("warning: {} is not counted for now: {reason}", self.url));
        }
        self.is_away = true;
    }
}

impl Seen {
    /// How it went, for people.
    pub(super) fn shown(&self) -> String {
        let Self { names, requests, failures, too_low, settings } = self;
        let AutoRevert { min_success, min_requests, watch_for, window, .. } = settings;
        let percent = |rate: f64| format!("{:.2} %", rate * 100.0);
        match too_low {
            Some(rate) => format!(
                "{} of the requests for names that it moves succeeded within {window:?}, and {} have to",
                percent(*rate),
                percent(*min_success)
            ),
            None if *names == 0 => "no name in use moves, so there was nothing to watch".into(),
            None if *requests == 0 || requests < min_requests => {
                format!(
                    "only {requests} requests for names that it moves ended within {watch_for:?}, too few to judge by"
                )
            }
            None => {
                let rate = 1.0 - *failures as f64 / *requests as f64;
                let rate = percent(rate);
                format!("{rate} of the {requests} requests for names that it moves succeeded within {watch_for:?}")
            }
        }
    }
}
