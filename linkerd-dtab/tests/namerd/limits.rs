use std::time::Duration;

use linkerd_dtab::namerd::{Cache, Kind, Limits, Refused, Session};

use crate::support::{Counted, builder, dtab, named, ns, path, peer, session, value};

const CACHE: Cache = Cache { active: 2, inactive: 1, inactive_for: Duration::from_mins(1) };

/// What there is too much of, the limit, and whether it is the peer's own.
fn limit<T: std::fmt::Debug>(refused: Result<T, Refused>) -> (&'static str, usize, bool) {
    match refused {
        Err(Refused::Limit { what, limit, is_own }) => (what, limit, is_own),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_many_watch_is_bound_once() {
    let namer = Counted::new();
    let namerd = builder(&namer).build();
    let bind = |port| namerd.session(peer(port)).bind(&ns("default"), &dtab(""), &path("/svc/web")).unwrap();
    let mut watched: Vec<_> = (0..100).map(bind).collect();
    for watched in &mut watched {
        assert_eq!(value(watched).await.unwrap().to_string(), "/#/fixed/web");
    }
    assert_eq!(namer.lookups(), 1);
    let addr = |port| namerd.session(peer(port)).addr(&path("/#/fixed/web")).unwrap();
    let mut addrs: Vec<_> = (0..100).map(addr).collect();
    for addr in &mut addrs {
        assert_eq!(value(addr).await.unwrap().endpoints().len(), 1);
    }
    assert_eq!(namer.lookups(), 2);
    let stats = namerd.stats();
    assert_eq!((stats.used.watches[&Kind::Bind], stats.bindings.active), (100, 1));
    assert_eq!((stats.used.watches[&Kind::Addr], stats.addrs.active), (100, 1));
    assert_eq!(stats.tables.len(), 1);

    drop((watched, addrs));
    let stats = namerd.stats();
    assert_eq!((stats.used.watches[&Kind::Bind], stats.bindings.active, stats.bindings.inactive), (0, 0, 1));
    drop(bind(1));
    assert_eq!(namer.lookups(), 2, "it is kept for a while");
}

#[tokio::test]
async fn a_binding_too_many_is_refused_and_who_has_most_is_known_but_not_told() {
    let namerd = builder(&Counted::new()).bindings(CACHE).build();
    let (greedy, other) = (namerd.session(named("greedy")), namerd.session(named("other")));
    let bind = |session: &Session, name| session.bind(&ns("default"), &dtab(""), &path(name));
    let held = (bind(&greedy, "/svc/a").unwrap(), bind(&greedy, "/svc/b").unwrap());
    let text = bind(&other, "/svc/c").unwrap_err().to_string();
    assert_eq!(text, "too many bindings: 2 are allowed");
    assert_eq!(limit(bind(&other, "/svc/c")), ("bindings", 2, false));
    assert_eq!(namerd.stats().used.offenders, [("greedy".into(), 2)].into());
    assert!(bind(&other, "/svc/a").is_ok(), "somebody watches it already");
    assert_eq!(namerd.stats().used.refused["bindings"], 2);
    drop(held);
    assert!(bind(&other, "/svc/c").is_ok());
}

#[tokio::test]
async fn watches_and_clients_are_counted_for_each_peer_and_in_all() {
    let limits = Limits { clients: 3, clients_per_peer: 2, watches: 3, watches_per_peer: 2, ..Limits::default() };
    let namerd = builder(&Counted::new()).limits(limits).build();
    let (a, b) = (namerd.session(named("a")), namerd.session(named("b")));
    let held = (a.dtab(&ns("default")).unwrap(), a.namespaces().unwrap());
    assert_eq!(limit(a.dtab(&ns("default"))), ("watches", 2, true));
    let other = b.dtab(&ns("default")).unwrap();
    assert_eq!(limit(b.dtab(&ns("default"))), ("watches", 3, false));
    assert_eq!(namerd.stats().used.most, Some(("a".into(), 2)));
    drop((held, other));
    assert!(a.dtab(&ns("default")).is_ok());

    let second = namerd.session(named("a"));
    assert!(second.dtab(&ns("default")).is_ok());
    let fourth = namerd.session(named("c"));
    assert_eq!(limit(fourth.dtab(&ns("default"))), ("clients", 3, false));
    drop(fourth);
    drop(b);
    let third = namerd.session(named("a"));
    assert_eq!(limit(third.dtab(&ns("default"))), ("clients", 2, true));
    drop((a.clone(), second));
    assert!(namerd.session(named("a")).dtab(&ns("default")).is_ok());
}

#[tokio::test]
async fn no_peer_takes_all_names_and_what_is_asked_once_needs_no_place() {
    let cache = Cache { active: 8, ..CACHE };
    let namerd = builder(&Counted::new()).bindings(cache).addrs(cache).build();
    let (greedy, other) = (namerd.session(named("greedy")), namerd.session(named("other")));
    let bind = |session: &Session, n: u16| session.bind(&ns("default"), &dtab(""), &path(&format!("/svc/{n}")));
    let mut held: Vec<_> = (0..6).map(|n| bind(&greedy, n).unwrap()).collect();
    assert_eq!(limit(bind(&greedy, 6)), ("bindings", 2, true), "the last quarter is for others");
    held.extend([bind(&other, 6).unwrap(), bind(&other, 7).unwrap()]);
    assert_eq!(limit(bind(&other, 8)), ("bindings", 8, false));
    let mut once = bind(&other.once(), 8).unwrap();
    assert_eq!(value(&mut once).await.unwrap().to_string(), "~");
    let addr = |session: &Session, n: u16| session.addr(&path(&format!("/#/fixed/{n}")));
    let addrs: Vec<_> = (0..6).map(|n| addr(&greedy, n).unwrap()).collect();
    assert_eq!(limit(addr(&greedy, 6)), ("watches of addresses", 2, true));
    assert!(addr(&greedy.once(), 6).is_ok());
    assert_eq!(namerd.stats().used.questions, 1);
    drop((held, addrs));
}

#[tokio::test]
async fn questions_have_limits_of_their_own() {
    let limits = Limits { watches: 1, questions: 3, questions_per_peer: 2, ..Limits::default() };
    let namerd = builder(&Counted::new()).limits(limits).build();
    let [a, b, c] = ["a", "b", "c"].map(|name| namerd.session(named(name)));
    let table = |session: &Session| session.dtab(&ns("default"));
    let watch = table(&a).unwrap();
    assert_eq!(limit(table(&b)), ("watches", 1, false));
    let asked = (table(&a.once()).unwrap(), table(&a.once()).unwrap(), table(&b.once()).unwrap());
    assert_eq!(limit(table(&a.once())), ("questions", 2, true));
    assert_eq!(limit(table(&c.once())), ("questions", 3, false));
    drop(asked);
    assert!(table(&c.once()).is_ok());
    drop(watch);
}

#[tokio::test]
async fn only_so_many_offenders_are_named() {
    let limits = Limits { clients_per_peer: 0, ..Limits::default() };
    let namerd = builder(&Counted::new()).limits(limits).build();
    for n in 0..30 {
        assert!(namerd.session(named(&format!("peer-{n}"))).dtab(&ns("default")).is_err());
    }
    let offenders = namerd.stats().used.offenders;
    assert_eq!((offenders.len(), offenders["others"], offenders["peer-0"]), (21, 10, 1));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_names_is_slowed_down_for_its_peer_alone() {
    let limits = Limits { new_names_per_sec_per_peer: 2, ..Limits::default() };
    let namerd = builder(&Counted::new()).limits(limits).build();
    let (flood, other) = (namerd.session(named("flood")), namerd.session(named("other")));
    let bind = |n: u32| flood.bind(&ns("default"), &dtab(""), &path(&format!("/svc/{n}")));
    let held: Vec<_> = (0..20).map(|n| bind(n).unwrap()).collect();
    assert_eq!(limit(bind(20)), ("new names a second", 2, true));
    assert!(bind(19).is_ok(), "it is not new");
    assert!(other.bind(&ns("default"), &dtab(""), &path("/svc/20")).is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    let more = (bind(21).unwrap(), bind(22).unwrap());
    assert!(bind(23).is_err());
    drop((held, more));
}

#[tokio::test]
async fn a_table_is_watched_once_however_many_names_are_bound_under_it() {
    let namerd = builder(&Counted::new()).build();
    let session = session(&namerd);
    let held: Vec<_> =
        (0..50).map(|n| session.bind(&ns("default"), &dtab(""), &path(&format!("/svc/{n}"))).unwrap()).collect();
    assert_eq!(namerd.stats().tables.len(), 1);
    drop(held);
}
