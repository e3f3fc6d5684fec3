//! What a namerd has open: as metrics below `namerd`, and as a part of the first page.

use std::{
    fmt::Write as _,
    sync::{Arc, Weak},
    time::Duration,
};

use linkerd_dtab::namerd::{Kind, Namerd, Stats, Used, Watches};

use crate::{
    admin::Escaped,
    telemetry::{Gauge, Registry, Scope},
};

/// What may be refused, and what the metric of it is called.
const REFUSALS: [(&str, &str); 7] = [
    ("clients", "clients"),
    ("watches", "watches"),
    ("new names a second", "new_names"),
    ("bindings", "bindings"),
    ("watches of addresses", "addrs"),
    ("questions", "questions"),
    ("bytes being read", "reading"),
];
/// Tables that the first page names because they may be stale.
const MAX_STALE: usize = 20;

/// The metrics.
struct Gauges {
    namespaces: Gauge,
    doubts: Gauge,
    peers: Gauge,
    clients: Gauge,
    watches: [(Kind, Gauge); Kind::ALL.len()],
    refused: [(&'static str, Gauge); REFUSALS.len()],
    most: Gauge,
    questions: Gauge,
    reading: Gauge,
    // One for each peer that had most when something was refused: as many as are named.
    offenders: Scope,
    bindings: Kept,
    addrs: Kept,
    tables: Gauge,
    stale: Gauge,
    oldest: Gauge,
}

/// The metrics of what is watched once for all.
struct Kept {
    active: Gauge,
    inactive: Gauge,
    limit: Gauge,
}

/// Shows in `registry` what `namerd` has open, until it is dropped.
pub(super) fn register(namerd: &Arc<Namerd>, registry: &Registry) {
    let gauges = Gauges::new(&registry.root().scope("namerd"));
    let namerd: Weak<Namerd> = Arc::downgrade(namerd);
    registry.on_read(move || namerd.upgrade().map(|namerd| gauges.set(&namerd.stats())).is_some());
}

/// The name of a kind in metrics.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespaces => "namespaces",
        Kind::Dtab => "dtabs",
        Kind::Bind => "bindings",
        Kind::Delegate => "delegations",
        Kind::Addr => "addrs",
        _ => "others",
    }
}

impl Gauges {
    fn new(scope: &Scope) -> Self {
        let (watches, refused, tables) = (scope.scope("watches"), scope.scope("refused"), scope.scope("tables"));
        Self {
            namespaces: scope.gauge("namespaces"),
            doubts: scope.scope("store").gauge("doubts"),
            peers: scope.gauge("peers"),
            clients: scope.gauge("clients"),
            watches: Kind::ALL.map(|kind| (kind, watches.gauge(name(kind)))),
            refused: REFUSALS.map(|(what, name)| (what, refused.gauge(name))),
            most: scope.gauge("most_watches_of_a_peer"),
            questions: scope.gauge("questions"),
            reading: scope.gauge("reading_bytes"),
            offenders: scope.scope("offenders"),
            bindings: Kept::new(&scope.scope("cache").scope("bindings")),
            addrs: Kept::new(&scope.scope("cache").scope("addrs")),
            tables: tables.gauge("watched"),
            stale: tables.gauge("stale"),
            oldest: tables.gauge("oldest_contact_ms"),
        }
    }

    fn set(&self, stats: &Stats) {
        let Used { peers, clients, watches, refused, most, questions, reading_bytes, offenders, .. } = &stats.used;
        // While that is not known it stays what it was.
        if let Some(namespaces) = stats.namespaces {
            self.namespaces.set_count(namespaces as u64);
        }
        self.doubts.set_count(stats.doubts);
        self.peers.set_count(*peers as u64);
        self.clients.set_count(*clients as u64);
        for (kind, gauge) in &self.watches {
            gauge.set_count(watches.get(kind).map_or(0, |n| *n as u64));
        }
        for (what, gauge) in &self.refused {
            gauge.set_count(refused.get(what).copied().unwrap_or_default());
        }
        self.most.set_count(most.as_ref().map_or(0, |(_, n)| *n as u64));
        self.questions.set_count(*questions as u64);
        self.reading.set_count(*reading_bytes as u64);
        for (peer, refusals) in offenders {
            self.offenders.gauge(&plain(peer)).set_count(*refusals);
        }
        self.bindings.set(stats.bindings);
        self.addrs.set(stats.addrs);
        self.tables.set_count(stats.tables.len() as u64);
        self.stale.set_count(stats.tables.iter().filter(|table| table.failure.is_some()).count() as u64);
        let oldest = stats.tables.iter().filter_map(|table| table.contact).max().unwrap_or_default();
        self.oldest.set_count(oldest.as_millis() as u64);
    }
}

/// A peer as a part of a metric's name, cut to what fits there.
fn plain(peer: &str) -> String {
    const MAX: usize = 64;
    peer.chars().take(MAX).map(|c| if c.is_ascii_alphanumeric() || ".-:".contains(c) { c } else { '_' }).collect()
}

impl Kept {
    fn new(scope: &Scope) -> Self {
        Self { active: scope.gauge("active"), inactive: scope.gauge("inactive"), limit: scope.gauge("limit") }
    }

    fn set(&self, watches: Watches) {
        self.active.set_count(watches.active as u64);
        self.inactive.set_count(watches.inactive as u64);
        self.limit.set_count(watches.limits.active as u64);
    }
}

/// The part of the first page: who has how much open, what was refused, and which tables may be stale.
pub(super) fn table(stats: &Stats) -> String {
    let Used { peers, clients, watches, refused, most, questions, reading_bytes, offenders, .. } = &stats.used;
    let mut out = String::from("<h2>in use</h2>\n<table>\n");
    let mut row = |what: &str, n: &dyn std::fmt::Display| {
        let _ = writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", Escaped(what), Escaped(n));
    };
    row("peers", peers);
    row("clients", clients);
    for (kind, n) in watches {
        row(kind.name(), n);
    }
    for (what, kept) in [("names in the cache", stats.bindings), ("addresses in the cache", stats.addrs)] {
        row(what, &format_args!("{} of {}, {} idle", kept.active, kept.limits.active, kept.inactive));
    }
    row("questions", questions);
    row("bytes of requests being read", reading_bytes);
    if let Some((peer, n)) = most {
        row("most watches of a peer", &format_args!("{n}, of {peer}"));
    }
    for (what, n) in refused {
        row(&format!("refused: too many {what}"), n);
    }
    for (peer, n) in offenders {
        row("had most when something was refused", &format_args!("{peer}, {n} times"));
    }
    out.push_str("</table>\n");
    let stale: Vec<_> = stats.tables.iter().filter(|table| table.failure.is_some()).collect();
    if !stale.is_empty() {
        let _ =
            writeln!(out, "<h2>stale tables</h2>\n<p>The store does not answer for these, which are kept:</p>\n<ul>");
        for table in stale.iter().take(MAX_STALE) {
            let age =
                table.contact.map_or("never heard of".to_owned(), |contact| format!("heard of {} ago", whole(contact)));
            let failure = table.failure.as_deref().unwrap_or_default();
            let _ = writeln!(out, "<li>{}: {age}: {}</li>", table.namespace, Escaped(failure));
        }
        out.push_str("</ul>\n");
        if stale.len() > MAX_STALE {
            let _ = writeln!(out, "<p>and {} more</p>", stale.len() - MAX_STALE);
        }
    }
    out
}

/// A duration in whole seconds.
fn whole(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

#[cfg(test)]
mod tests {
    use linkerd_dtab::{
        namerd::{Limits, Peer},
        store::Memory,
    };

    use super::*;
    use crate::telemetry::Reading;

    fn value(registry: &Registry, name: &str) -> Option<i64> {
        let mut found = None;
        registry.visit(|path, reading| {
            if let Reading::Gauge(value) = reading
                && path.join("/") == name
            {
                found = Some(value as i64);
            }
        });
        found
    }

    #[tokio::test]
    async fn what_is_open_is_a_metric_until_the_namerd_is_gone() {
        let tables = [("default".parse().unwrap(), "/svc => /$/inet/127.0.0.1/1".parse().unwrap())];
        let limits = Limits { clients: 1, ..Limits::default() };
        let namerd = Arc::new(Namerd::builder(Memory::new(tables)).limits(limits).build());
        let registry = Registry::new();
        register(&namerd, &registry);
        let peer = || Peer { addr: Some(([10, 0, 0, 1], 9).into()), ..Peer::default() };
        let session = namerd.session(peer());
        let refused = namerd.session(peer());
        let namespace = "default".parse().unwrap();
        let _table = session.dtab(&namespace).unwrap();
        let _name = session.bind(&namespace, &linkerd_dtab::Dtab::empty(), &"/svc".parse().unwrap()).unwrap();
        assert!(refused.dtab(&namespace).is_err());
        for (name, expected) in [
            ("namerd/namespaces", 1),
            ("namerd/peers", 1),
            ("namerd/clients", 1),
            ("namerd/watches/dtabs", 1),
            ("namerd/watches/bindings", 1),
            ("namerd/watches/addrs", 0),
            ("namerd/refused/clients", 1),
            ("namerd/most_watches_of_a_peer", 2),
            ("namerd/offenders/10.0.0.1", 1),
            ("namerd/questions", 0),
            ("namerd/reading_bytes", 0),
            ("namerd/cache/bindings/active", 1),
            ("namerd/cache/bindings/limit", 1000),
            ("namerd/tables/watched", 1),
            ("namerd/tables/stale", 0),
            ("namerd/store/doubts", 0),
        ] {
            assert_eq!(value(&registry, name), Some(expected), "{name}");
        }
        let page = table(&namerd.stats());
        assert!(page.contains("<tr><th>most watches of a peer</th><td>2, of 10.0.0.1</td></tr>"), "{page}");
        assert!(page.contains("<tr><th>refused: too many clients</th><td>1</td></tr>"), "{page}");
        let weak = Arc::downgrade(&namerd);
        drop(namerd);
        assert!(weak.upgrade().is_none(), "the registry does not keep it");
    }
}
