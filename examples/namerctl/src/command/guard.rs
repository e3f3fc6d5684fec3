//! What a change would do, before it is made, and what it does to the requests that it moves.

use std::{collections::HashSet, time::Duration};

use linkerd_dtab::namerd::revert::{AutoRevert, Sample, Verdict, Watchdog};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    check::said,
    plan::{Hidden, planned},
};
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
    Watch(Box<Watch>),
}

/// For how long requests are counted before a change, where it is not known which are for the names that it moves.
const BASELINE: Duration = Duration::from_secs(5);

/// The requests for names that a change moves, as proxies count them.
pub(super) struct Watch {
    settings: AutoRevert,
    proxies: Vec<Watched>,
    counted: Counted,
    /// The success rates before the change, where enough is known of them.
    before: [Option<f64>; GROUPS],
}

struct Watched {
    url: String,
    proxy: Proxy,
    /// How its requests had ended when it was asked last.
    last: [Ended; GROUPS],
    is_away: bool,
}

/// Which requests count: of these routers, for these names under these tables; and if names move that one may not know, for
/// all below one's own prefixes, and for all others.
#[derive(Clone)]
struct Counted {
    routers: Vec<String>,
    names: HashSet<(Asks, String)>,
    /// The table that is changed: all its names that move are known.
    namespace: String,
    hidden: Hidden,
}

/// The places of the three kinds in what is counted.
const KNOWN: usize = 0;
const OWN: usize = 1;
const OTHERS: usize = 2;
const GROUPS: usize = 3;

/// What came of the requests for names that a change moves.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Seen {
    #[serde(flatten)]
    known: Tally,
    /// Of names that one may not know, and for these of all requests for names below one's own prefixes.
    #[serde(skip_serializing_if = "Tally::is_of_none")]
    own: Tally,
    /// Of others that one may not know, and for these of all other requests of the proxies.
    #[serde(skip_serializing_if = "Tally::is_of_none")]
    elsewhere: Tally,
    /// The success rate that was too low, from 0 to 1.
    #[serde(rename = "tooLow", skip_serializing_if = "Option::is_none")]
    pub(super) too_low: Option<f64>,
    /// Of which kind.
    #[serde(skip)]
    group: usize,
    /// The time that the rate is of.
    #[serde(skip)]
    within: Duration,
    #[serde(skip)]
    settings: AutoRevert,
}

/// Names that move, and the requests that count for them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Tally {
    names: usize,
    requests: u64,
    failures: u64,
    /// The success rate before the change, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<f64>,
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
        let (namespace, hidden) = (plan.namespace().to_owned(), plan.hidden());
        for (names, what) in [(hidden.own, OF_OWN), (hidden.others, OF_OTHERS)] {
            if names > 0 {
                let names = moving_hidden(names);
                note(&format!("warning: {names}: --watch counts all {what}, as it cannot tell which are for them"));
            }
        }
        let counted = Counted { routers: wanted.routers.to_vec(), names, namespace, hidden };
        let mut proxies = Vec::new();
        for (url, proxy) in urls.iter().zip(wanted.proxies(urls).await?) {
            let last = counted.ended(&proxy).await?;
            proxies.push(Watched { url: url.clone(), proxy, last, is_away: false });
        }
        let mut watch = Watch { settings: *settings, proxies, counted, before: [None; GROUPS] };
        if watch.counted.hidden.own + watch.counted.hidden.others > 0 {
            watch.take_baseline().await;
        }
        Ok(Outlook::Watch(Box::new(watch)))
    }
}

/// What is said of names that one may not know.
fn moving_hidden(names: usize) -> String {
    let (names, move_) = if names == 1 { ("1 name".into(), "moves") } else { (format!("{names} names"), "move") };
    format!("{names} elsewhere {move_} that you may not read")
}

impl Counted {
    async fn ended(&self, proxy: &Proxy) -> Result<[Ended; GROUPS], Error> {
        proxy.ended(|router, asks, name| self.group(router, asks, name)).await
    }

    fn group(&self, router: &str, asks: &Asks, name: &str) -> Option<usize> {
        if !is_of(&self.routers, router) {
            return None;
        }
        // Of a router that does not tell what it asks, all that has such a name.
        let is_any = || *asks == Asks::Unknown && self.names.iter().any(|(_, moving)| moving == name);
        if self.names.contains(&(asks.clone(), name.to_owned())) || is_any() {
            return Some(KNOWN);
        }
        let may_be_elsewhere = match asks {
            Asks::Unknown => true,
            Asks::Nobody => false,
            Asks::Table(namespace, _) => *namespace != self.namespace,
        };
        if !may_be_elsewhere {
            return None;
        }
        let Hidden { own, owns, others } = &self.hidden;
        let is_own = || format!("/{name}").parse().is_ok_and(|name| owns.iter().any(|owned| owned.begins(&name)));
        if *own > 0 && is_own() {
            return Some(OWN);
        }
        (*others > 0).then_some(OTHERS)
    }
}

impl Watch {
    /// Watches a change that has just been made, until too much fails or the time is over.
    pub(super) async fn run(mut self) -> Seen {
        let settings = self.settings;
        let of = |names, group: usize| Tally { names, before: self.before[group], ..Tally::default() };
        let Hidden { own, others, .. } = self.counted.hidden;
        let (known, own, elsewhere) = (of(self.counted.names.len(), KNOWN), of(own, OWN), of(others, OTHERS));
        let mut seen =
            Seen { known, own, elsewhere, too_low: None, group: KNOWN, within: settings.watch_for, settings };
        if seen.known.is_of_none() && seen.own.is_of_none() && seen.elsewhere.is_of_none() {
            return seen;
        }
        // What ended before the change is not its fault.
        self.sample().await;
        let start = Instant::now();
        // Each by itself: what is known to move is not lost among what may.
        let mut watchdogs = self.before.map(|before| {
            let min_success = least(settings.min_success, before);
            Watchdog::new(AutoRevert { min_success, ..settings }, start)
        });
        let mut ticks = interval(settings.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let samples = self.sample().await;
            let now = Instant::now();
            seen.known.add(samples[KNOWN]);
            seen.own.add(samples[OWN]);
            seen.elsewhere.add(samples[OTHERS]);
            let mut is_over = false;
            for (group, watchdog) in watchdogs.iter_mut().enumerate() {
                match watchdog.observe(now, samples[group]) {
                    Verdict::Revert(rate) => {
                        let within = settings.window.min(now - start);
                        return Seen { too_low: Some(rate), group, within, ..seen };
                    }
                    Verdict::Keep => is_over = true,
                    _ => {}
                }
            }
            if is_over {
                return seen;
            }
        }
    }

    /// Finds out how requests end before the change: of those that are not for the names that it moves, and of which as many
    /// fail as ever, it is not to be taken back for that.
    async fn take_baseline(&mut self) {
        tokio::time::sleep(BASELINE.min(self.settings.watch_for)).await;
        let samples = self.sample().await;
        for group in [OWN, OTHERS] {
            let Sample { requests, failures } = samples[group];
            let is_enough = requests > 0 && requests >= self.settings.min_requests;
            self.before[group] = is_enough.then(|| 1.0 - failures as f64 / requests as f64);
        }
    }

    /// What ended since the last time. Of a proxy that does not answer nothing is known; it is caught up with.
    async fn sample(&mut self) -> [Sample; GROUPS] {
        let mut asked = JoinSet::new();
        for (index, watched) in self.proxies.iter().enumerate() {
            let (proxy, counted) = (watched.proxy.clone(), self.counted.clone());
            asked.spawn(async move { (index, timeout(PATIENCE, counted.ended(&proxy)).await) });
        }
        let mut samples = [Sample::default(); GROUPS];
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
            for (group, sample) in samples.iter_mut().enumerate() {
                let Ended { well, badly } = now[group].since(watched.last[group]);
                sample.requests += (well + badly) as u64;
                sample.failures += badly as u64;
            }
            (watched.last, watched.is_away) = (now, false);
        }
        samples
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

impl Tally {
    fn is_of_none(&self) -> bool {
        self.names == 0
    }

    fn add(&mut self, Sample { requests, failures }: Sample) {
        self.requests += requests;
        self.failures += failures;
    }

    /// How it went until the end, for people; `what` these requests are.
    fn shown(&self, what: &str, settings: &AutoRevert) -> String {
        let Self { requests, failures, .. } = self;
        let AutoRevert { min_requests, watch_for, .. } = settings;
        if *requests == 0 || requests < min_requests {
            return format!("only {requests} {what} ended within {watch_for:?}, too few to judge by");
        }
        let rate = percent(1.0 - *failures as f64 / *requests as f64);
        format!("{rate} of the {requests} {what} succeeded within {watch_for:?}")
    }
}

const OF_KNOWN: &str = "requests for names that it moves";
const OF_OWN: &str = "requests of the proxies for names that the table may define";
const OF_OTHERS: &str = "other requests of the proxies";

/// The lowest success rate that is kept: what failed before may fail still.
fn least(min_success: f64, before: Option<f64>) -> f64 {
    min_success - before.map_or(0.0, |before| 1.0 - before)
}

fn percent(rate: f64) -> String {
    format!("{:.2} %", rate * 100.0)
}

impl Seen {
    /// How it went, for people.
    pub(super) fn shown(&self) -> String {
        let Self { known, own, elsewhere, too_low, group, within, settings } = self;
        let groups = [(known, OF_KNOWN), (own, OF_OWN), (elsewhere, OF_OTHERS)];
        if let Some(rate) = too_low {
            let (tally, what) = groups[*group];
            let (rate, least) = (percent(*rate), percent(least(settings.min_success, tally.before)));
            let within = within.as_secs_f64();
            let before = tally.before.map(|before| format!(", as {} did before", percent(before))).unwrap_or_default();
            let why = if *group == KNOWN { String::new() } else { format!("; {}", moving_hidden(tally.names)) };
            return format!("{rate} of the {what} succeeded within {within:.1}s, and {least} have to{before}{why}");
        }
        let shown = groups.into_iter().filter(|(tally, _)| !tally.is_of_none()).map(|(tally, what)| {
            let shown = tally.shown(what, settings);
            if what == OF_KNOWN { shown } else { format!("{}: {shown}", moving_hidden(tally.names)) }
        });
        let shown = shown.collect::<Vec<_>>().join("; ");
        if shown.is_empty() { "no name in use moves, so there was nothing to watch".into() } else { shown }
    }
}
