//! What a pick never does, in whatever state the endpoints are.

use linkerd_balance::{
    Aperture, ApertureBuilder, Balance, Draw, LeastLoaded, P2c, Peer, Policy, Status, Strategy, Subset,
};
use proptest::{collection::vec, prelude::ProptestConfig, prop_assert, prop_assert_eq, proptest};

use crate::world::{MS, World, draws};

fn status(of: u8) -> Status {
    match of {
        0 => Status::Closed,
        1 => Status::Busy,
        _ => Status::Open,
    }
}

fn apertures(client: usize, total: usize, min: usize) -> [ApertureBuilder; 2] {
    let peer = Peer::new(client % total, total).unwrap();
    [Aperture::builder().client(client as u64).min(min), Aperture::builder().peer(peer).min(min)]
}

/// A fractional endpoint is as loaded as a whole one when it has its fraction of the requests.
#[test]
fn peers_under_load_share_it_evenly() {
    const PEERS: usize = 4;
    let mut seen = [0_u32; 10];
    let mut now = tokio::time::Instant::now().into_std();
    let peers: Vec<Balance<u16, ()>> = (0..PEERS)
        .map(|ordinal| {
            let aperture = Aperture::builder().peer(Peer::new(ordinal, PEERS).unwrap()).max(1).build().unwrap();
            let balance = Balance::new(Policy::new(aperture, LeastLoaded::new), |_: &u16, _: &_| ());
            balance.update((0..10).map(|key| (key, 1.0))).unwrap();
            balance
        })
        .collect();
    // 50 in flight on 2.5 endpoints each.
    let mut leases: Vec<Vec<_>> = peers.iter().map(|_| Vec::new()).collect();
    for draw in draws().take(10_000) {
        now += MS;
        for (peer, leases) in peers.iter().zip(&mut leases) {
            if leases.len() == 50 {
                let lease: linkerd_balance::Lease<u16, ()> = leases.remove(0);
                lease.end(true, now);
            }
            let lease = peer.try_acquire(draw, now, &[]).unwrap();
            seen[usize::from(*lease.key())] += 1;
            leases.push(lease);
        }
    }
    assert!(seen.iter().all(|n| (3_850..4_150).contains(n)), "{seen:?}");
}

#[test]
fn picks_on_two_threads_go_on_while_the_set_changes_and_the_width_too() {
    let aperture = Aperture::builder().client(1).window(MS).build().unwrap();
    let meter = aperture.meter();
    let balance = Balance::new(Policy::new(aperture, LeastLoaded::new), |_: &u16, _: &_| ());
    balance.update((0..40).map(|key| (key, 1.0))).unwrap();
    let start = tokio::time::Instant::now().into_std();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut leases = Vec::new();
                for (i, draw) in (0..).zip(draws().take(20_000)) {
                    leases.push(balance.try_acquire(draw, start + MS * i / 10, &[]).unwrap());
                    // By turns 30 in flight, and none.
                    if leases.len() == 30 {
                        leases.clear();
                    }
                }
            });
        }
        for round in 1..200_u16 {
            balance.update((0..40).filter(|key| (key + round) % 7 > 0).map(|key| (key, 1.0))).unwrap();
        }
    });
    assert_eq!(balance.stats(start).load, 0);
    // How the threads met is chance; what comes after them is not: many in flight for a while, then none.
    let mut leases = Vec::new();
    for (i, draw) in (0..).zip(draws().take(200)) {
        if i == 100 {
            leases.clear();
        }
        let lease = balance.try_acquire(draw, start + 10_000 * MS + MS * i, &[]).unwrap();
        if i < 100 {
            leases.push(lease);
        }
    }
    assert!(meter.widened() > 0 && meter.narrowed() > 0);
}

#[test]
fn nothing_made_for_another_set_is_used() {
    let (small, large) = (World::new(2), World::new(40));
    let aperture = Aperture::builder().build().unwrap();
    let subset = Subset::new(5, 1, P2c::new()).unwrap();
    for prototype in [&aperture as &dyn Strategy, &subset] {
        let bound = large.bind(prototype);
        for draw in draws().take(100) {
            assert!(bound.pick(&small, draw) < 2);
            assert!(prototype.pick(&small, draw) < 2, "not made for any");
        }
        assert!(prototype.uses(&small, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pick_is_open_if_any_is_and_inside_if_an_open_one_is(
        set in vec((0_u8..3, 0_usize..20, 1e-3..1e3_f64), 1..40),
        client in 0_usize..50, total in 1_usize..50, min in 1_usize..10, random: u64, later in 0_u64..10_000,
    ) {
        let mut world = World::new(set.len());
        // Twice, as in two processes.
        let mut bound = Vec::new();
        for aperture in apertures(client, total, min) {
            let aperture = aperture.build().unwrap();
            bound.push([world.bind(&aperture), world.bind(&aperture)]);
        }
        let peer = Peer::new(client % total, total).unwrap();
        let by_client = Subset::new(min, client as u64, P2c::new()).unwrap();
        let by_peer = Subset::of_peer(min, peer, P2c::new()).unwrap();
        for subset in [by_client, by_peer] {
            bound.push([world.bind(&subset), world.bind(&subset)]);
        }
        // The state is another one than when the set came.
        for (i, (of, pending, weight)) in set.into_iter().enumerate() {
            (world.status[i], world.pending[i], world.weight[i]) = (status(of), pending, weight);
        }
        for [strategy, other] in bound {
            let same: Vec<bool> = (0..world.ids.len()).map(|i| other.uses(&world, i)).collect();
            let inside: Vec<bool> = (0..world.ids.len()).map(|i| strategy.uses(&world, i)).collect();
            prop_assert_eq!(&inside, &same);
            prop_assert!(inside.contains(&true));
            let i = strategy.pick(&world, Draw::new(random));
            prop_assert_eq!(other.pick(&world, Draw::new(random)), i);
            let best = |inside: &[bool]| (0..inside.len()).filter(|i| inside[*i]).map(|i| world.status[i]).max();
            let all = world.status.iter().max().copied();
            if best(&inside) == Some(Status::Open) {
                prop_assert!(inside[i]);
            }
            if all == Some(Status::Open) {
                prop_assert_eq!(world.status[i], Status::Open);
            } else {
                prop_assert_eq!(Some(world.status[i]), best(&inside));
            }
            let mut late = world.clone();
            late.now += MS * later as u32;
            let i = strategy.pick(&late, Draw::new(random));
            prop_assert!(world.status[i] == Status::Open || all != Some(Status::Open));
        }
    }
}
