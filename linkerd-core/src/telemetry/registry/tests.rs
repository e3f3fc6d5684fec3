use super::*;

fn names(registry: &Registry) -> Vec<String> {
    let mut names = Vec::new();
    registry.visit(|path, _| names.push(path.join("|")));
    names
}

#[test]
fn one_name_is_one_handle() {
    let registry = Registry::new();
    let scope = registry.root().scope("rt").scope("http");
    scope.counter("requests").add(2);
    registry.root().scope("rt").scope("http").counter("requests").incr();
    assert_eq!(scope.counter("requests").get(), 3);
    scope.gauge("pending").incr();
    assert_eq!(scope.gauge("pending").get(), 1);
    scope.stat("latency").record(1);
    assert_eq!(registry.len(), 3);
}

#[test]
fn a_slash_in_a_name_is_no_new_scope() {
    let registry = Registry::new();
    let _ = registry.root().scope("server").scope("127.0.0.1/4140").counter("requests");
    assert_eq!(names(&registry), ["server|127.0.0.1/4140|requests"]);
}

#[test]
fn a_scope_may_be_a_metric_too() {
    let registry = Registry::new();
    registry.root().counter("failures").incr();
    registry.root().scope("failures").counter("timeout").incr();
    assert_eq!(names(&registry), ["failures", "failures|timeout"]);
}

#[test]
fn a_full_registry_hands_out_handles_that_nobody_reads() {
    let registry = Registry::with(2, DEFAULT_SNAPSHOT_INTERVAL);
    let root = registry.root();
    let _ = (root.counter("a"), root.counter("b"));
    root.scope("deep").scope("er").counter("c").incr();
    root.counter("a").incr();
    assert_eq!((registry.len(), registry.refused()), (2, 1));
    assert_eq!(names(&registry), ["a", "b", "metrics|refused"]);
    root.scope("a").prune();
    root.counter("c").incr();
    assert_eq!((registry.len(), registry.refused()), (2, 1));
}

#[test]
fn a_name_of_another_kind_is_refused() {
    let registry = Registry::new();
    registry.root().counter("a").incr();
    registry.root().gauge("a").set(7);
    assert_eq!(registry.refused(), 1);
    assert_eq!(registry.root().counter("a").get(), 1);
}

#[test]
fn the_last_hold_prunes() {
    let registry = Registry::new();
    let scope = registry.root().scope("client").scope("#/web");
    let closing = scope.hold();
    scope.counter("requests").incr();
    let fresh = scope.hold();
    drop(closing);
    assert_eq!(scope.counter("requests").get(), 1);
    drop(fresh);
    assert_eq!(names(&registry), [""; 0]);
    assert_eq!(registry.len(), 0);
    assert_eq!(scope.counter("requests").get(), 0);
}

#[test]
fn a_hold_of_a_pruned_scope_leaves_its_successor_alone() {
    let registry = Registry::new();
    let scope = registry.root().scope("client");
    let old = scope.hold();
    scope.prune();
    let _new = scope.hold();
    scope.counter("requests").incr();
    drop(old);
    assert_eq!(names(&registry), ["client|requests"]);
}

#[test]
fn a_function_that_owns_a_hold_does_not_lock_up() {
    let registry = Registry::new();
    let scope = registry.root().scope("client");
    let hold = registry.root().scope("other").hold();
    scope.gauge_fn("load", move || {
        let _ = &hold;
        1.5
    });
    let mut readings = Vec::new();
    registry.visit(|_, reading| readings.push(reading));
    assert_eq!(readings, [Reading::Gauge(1.5)]);
    scope.prune();
    assert!(registry.is_empty());
}

#[test]
fn a_read_holds_no_lock_while_it_shows() {
    let registry = Registry::new();
    registry.root().scope("a").counter("x").incr();
    registry.visit(|_, _| {
        // Would wait for ever if the walk held a lock here.
        registry.root().scope("a").counter("y").incr();
        registry.root().scope("b").prune();
    });
    assert_eq!(names(&registry), ["a|x", "a|y"]);
}

#[test]
fn a_walk_that_is_left_goes_on_where_it_was() {
    let registry = Registry::new();
    let root = registry.root();
    for name in ["a", "b", "c"] {
        let scope = root.scope("rt").scope(name);
        let _ = (scope.counter("requests"), scope.counter("failures"), scope.scope("failures").counter("closed"));
    }
    let all = names(&registry);
    assert_eq!(all.len(), 9);
    let mut walk = registry.walk_in(&[]).unwrap();
    let mut next = || walk.reading().map(|(path, _)| path.join("|"));
    let begun: Vec<_> = (0..4).map_while(|_| next()).collect();
    assert_eq!(begun, all[..4]);
    // Rows of names that were begun stay as they were.
    let _ = root.scope("rt").scope("b").counter("new");
    root.scope("rt").scope("c").prune();
    let rest: Vec<_> = (0..10).map_while(|_| next()).collect();
    assert_eq!(rest, all[4..]);
    assert_eq!(next(), None);
}

#[test]
fn what_takes_long_to_refresh_is_in_parts_and_ends_when_it_is_gone() {
    let registry = Registry::new();
    let gauge = registry.root().gauge("parts");
    let gauges = Arc::new(vec![gauge.clone(); 3]);
    let weak = Arc::downgrade(&gauges);
    registry.on_read_in_parts(move || {
        let gauges = weak.upgrade()?;
        Some(Box::new((0..3).map(move |n| gauges[n].incr())))
    });
    let mut parts = registry.refresh();
    assert_eq!((parts.next(), gauge.get()), (Some(()), 1));
    drop(parts);
    registry.visit(|_, reading| assert_eq!(reading, Reading::Gauge(4.0)));
    drop(gauges);
    assert_eq!((registry.refresh().count(), lock(&registry.0.refresh).len()), (0, 0));
}

#[test]
fn reads_beside_requests_and_closing_stacks_lose_nothing() {
    const EACH: u64 = 2000;
    let registry = Registry::new();
    let scope = registry.root().scope("rt");
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let scope = &scope;
                threads.spawn(move || {
                    for n in 0..EACH {
                        let client = scope.scope("client").scope(&(n % 7).to_string());
                        let hold = client.hold();
                        client.counter("requests").incr();
                        client.scope(&worker.to_string()).stat("latency").record(n);
                        drop(hold);
                        scope.counter("requests").incr();
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            registry.visit(|_, _| ());
        }
    });
    assert_eq!(scope.counter("requests").get(), 3 * EACH);
    assert_eq!(registry.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn stats_show_each_interval() {
    let registry = Registry::new();
    let stat = registry.root().stat("latency");
    let driver = registry.clone();
    tokio::spawn(async move { driver.drive().await });
    tokio::task::yield_now().await;
    stat.record(3);
    tokio::time::sleep(Duration::from_millis(59_999)).await;
    assert_eq!(stat.summary(), None);
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert_eq!(stat.summary().unwrap().max, 3);
    tokio::time::sleep(DEFAULT_SNAPSHOT_INTERVAL).await;
    assert_eq!(stat.summary().unwrap().count, 0);
}

#[tokio::test(start_paused = true)]
async fn others_have_their_turn_while_an_interval_ends() {
    let registry = Registry::new();
    let stats: Vec<_> = (0..3 * AT_A_TIME).map(|n| registry.root().stat(&n.to_string())).collect();
    for stat in &stats {
        stat.record(1);
    }
    let driver = registry.clone();
    tokio::spawn(async move { driver.drive().await });
    tokio::task::yield_now().await;
    // It begins at that moment, before this or after it.
    tokio::time::sleep(DEFAULT_SNAPSHOT_INTERVAL).await;
    let rolled = || stats.iter().filter(|stat| stat.summary().is_some()).count();
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(rolled());
        tokio::task::yield_now().await;
    }
    assert!(seen.iter().any(|rolled| (1..=2 * AT_A_TIME).contains(rolled)), "{seen:?}");
    assert_eq!(rolled(), stats.len());
}

#[cfg(feature = "config")]
#[test]
fn what_is_undone_takes_out_what_is_new_and_nobodys() {
    let registry = Registry::new();
    let scope = registry.root().scope("a");
    drop(scope.counter("old"));
    let attempt = registry.attempt();
    let kept = scope.scope("more").counter("kept");
    drop((scope.counter("old"), scope.gauge("new"), scope.scope("more").stat("new"), scope.scope("old").counter("in")));
    assert_eq!(registry.len(), 5);
    assert!(!attempt.undo());
    assert_eq!(registry.len(), 2);
    drop(kept);
    assert!(attempt.undo());
    assert_eq!(registry.len(), 1);
    drop(attempt);
    drop(scope.counter("later"));
    assert_eq!(registry.len(), 2);
}
