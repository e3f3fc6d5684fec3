//! Which endpoints are inside, and how evenly clients use servers.

use std::time::Duration;

use linkerd_balance::{Aperture, ApertureBuilder, InvalidAperture, InvalidPeer, Peer};
use proptest::{collection::hash_set, prelude::ProptestConfig, prop_assert, prop_assert_eq, proptest};

use crate::world::{World, chi_square, connections, draws, moved, ratio};

const CLIENTS: usize = 200;
const SERVERS: usize = 300;

fn peer(ordinal: usize, total: usize) -> ApertureBuilder {
    Aperture::builder().peer(Peer::new(ordinal, total).unwrap())
}

fn on_ring(world: &World, clients: usize, width: usize) -> Vec<Vec<u64>> {
    let used = |client| world.used(&*world.bind(&peer(client, clients).min(width).build().unwrap()));
    (0..clients).map(used).collect()
}

#[test]
fn peers_connect_to_every_server_as_often() {
    let world = World::new(SERVERS);
    for width in [2, 3, 5, 12, 20, 50, 100] {
        let used = on_ring(&world, CLIENTS, width);
        let (least, most) = used.iter().fold((usize::MAX, 0), |(l, m), u| (l.min(u.len()), m.max(u.len())));
        assert!(least >= width && most <= width + 3, "{width}: from {least} to {most}");
        let connections = connections(&world, &used);
        assert!(ratio(&connections) <= 1.5, "{width}: {connections:?}");
    }
}

#[test]
fn on_a_ring_one_server_less_moves_few_connections_of_wide_apertures() {
    let world = World::new(SERVERS);
    // A width that stays the same number of parts of the ring; where it does not, each slice changes by one part.
    let before = on_ring(&world, CLIENTS, 119);
    for gone in [0, 150, 299] {
        let fewer = world.without(gone);
        let after = on_ring(&fewer, CLIENTS, 119);
        let moved = moved(&before, &after, SERVERS);
        assert!(moved <= 2.0, "{gone}: {moved}/N");
    }
}

#[test]
fn by_client_a_server_moves_its_own_connections_at_any_width() {
    let world = World::new(SERVERS);
    for width in [5, 20, 100] {
        let used = |world: &World| -> Vec<Vec<u64>> {
            let used =
                |client| world.used(&*world.bind(&Aperture::builder().client(client).min(width).build().unwrap()));
            (0..CLIENTS as u64).map(used).collect()
        };
        let before = used(&world);
        for gone in [0, 150, 299] {
            let moved = moved(&before, &used(&world.without(gone)), SERVERS);
            assert!(moved <= 2.0, "{width}, {gone}: {moved}/N");
        }
    }
}

#[test]
fn few_peers_cover_all_servers_between_them() {
    let world = World::new(10);
    for clients in [1, 2, 3, 7] {
        let used = on_ring(&world, clients, 1);
        assert!(connections(&world, &used).iter().all(|n| *n >= 1), "{clients}");
        assert!(used.iter().all(|used| used.len() <= 10_usize.div_ceil(clients) + 1));
    }
    // More clients than servers: a part of one endpoint each, or of two.
    assert!(on_ring(&world, 35, 1).iter().all(|used| used.len() <= 2));
}

/// 99 % points of chi-square, by degrees of freedom.
const CHI_SQUARE_9_99: f64 = 21.666;
const CHI_SQUARE_6_99: f64 = 16.812;

#[test]
fn peers_together_share_requests_evenly_and_by_weight() {
    let weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0, 2.5, 1.5, 1.0];
    for weights in [[1.0; 10], weights] {
        for (clients, width) in [(3, 1), (4, 3), (7, 2), (7, 5), (23, 4), (1, 1)] {
            let mut world = World::new(10);
            world.weight = weights.to_vec();
            // Each peer sends as much as the others, in proportion to the weights that it covers.
            let mut expected = vec![0.0; 10];
            let mut seen = vec![0; 10];
            for client in 0..clients {
                let strategy = world.bind(&peer(client, clients).min(width).build().unwrap());
                let mut own = vec![0; 10];
                for draw in draws().skip(client * 77_777).take(100_000 / clients) {
                    own[strategy.pick(&world, draw)] += 1;
                }
                for i in 0..10 {
                    assert_eq!(own[i] > 0, strategy.uses(&world, i), "{client} of {clients}: {i}: {own:?}");
                    seen[i] += own[i];
                }
                if weights == [1.0; 10] {
                    expected = vec![1.0; 10];
                    continue;
                }
                let inside: f64 = (0..10).map(|i| weights[i] * slice(&world, client, clients, width)[i]).sum();
                for i in 0..10 {
                    expected[i] += weights[i] * slice(&world, client, clients, width)[i] / inside;
                }
            }
            let chi = chi_square(&seen, &expected);
            assert!(chi < CHI_SQUARE_9_99, "{clients} clients, {width} wide: {chi}: {seen:?} {expected:?}");
        }
    }
}

/// The part of each endpoint in a peer's slice, worked out in another way: by walking in steps of a thousandth.
fn slice(world: &World, client: usize, clients: usize, width: usize) -> Vec<f64> {
    let n = world.ids.len();
    let mut pieces = 1;
    while pieces * n < width * clients {
        pieces += 1;
    }
    // The ring's order, read off apertures that begin at each server.
    let order: Vec<usize> = (0..n).map(|k| first(world, k)).collect();
    let mut parts = vec![0.0; n];
    let steps = 1_000 * n;
    for step in 0..(steps * pieces / clients) {
        let at = (client * steps / clients + step) % steps;
        parts[order[at / 1_000]] += 1e-3;
    }
    parts
}

fn first(world: &World, k: usize) -> usize {
    let n = world.ids.len();
    let strategy = world.bind(&peer(k, n).build().unwrap());
    (0..n).find(|i| strategy.uses(world, *i)).unwrap()
}

#[test]
fn picks_follow_weights_within_the_aperture_even_those_that_change() {
    let mut world = World::new(30);
    for (i, weight) in world.weight.iter_mut().enumerate() {
        *weight = [1.0, 2.0, 0.5, 4.0][i % 4];
    }
    let strategy = world.bind(&Aperture::builder().client(3).min(7).build().unwrap());
    let inside: Vec<usize> = (0..30).filter(|i| strategy.uses(&world, *i)).collect();
    assert_eq!(inside.len(), 7);
    for factors in [[1.0, 1.0, 1.0], [0.1, 1.0, 1.0], [9.0, 1.0, 0.01]] {
        // As in a slow start: without a new set.
        for (k, i) in inside.iter().enumerate() {
            world.weight[*i] *= factors[k % 3];
        }
        let mut seen = [0; 30];
        for draw in draws().take(100_000) {
            seen[strategy.pick(&world, draw)] += 1;
        }
        let weights: Vec<f64> = inside.iter().map(|i| world.weight[*i]).collect();
        let picked: Vec<u32> = inside.iter().map(|i| seen[*i]).collect();
        assert_eq!(picked.iter().sum::<u32>(), 100_000, "no other");
        let chi = chi_square(&picked, &weights);
        assert!(chi < CHI_SQUARE_6_99, "{chi}: {picked:?} {weights:?}");
    }
}

#[test]
fn who_is_inside_follows_from_ids_and_client_alone() {
    // Pinned: another answer would move every client's connections when it is upgraded.
    let mut world = World::new(8);
    world.ids = (100..108).collect();
    let by_client = Aperture::builder().client(42).min(3).build().unwrap();
    let by_peer = peer(2, 5).min(3).build().unwrap();
    assert_eq!(world.used(&*world.bind(&by_client)), [102, 104, 107]);
    assert_eq!(world.used(&*world.bind(&by_peer)), [100, 101, 105, 107]);
}

#[test]
fn two_clients_by_chance_differ() {
    let world = World::new(1_000);
    let used = || world.used(&*world.bind(&Aperture::builder().min(10).build().unwrap()));
    assert_ne!(used(), used());
}

#[test]
fn values_that_are_none_are_named() {
    let message = |builder: ApertureBuilder| builder.build().unwrap_err().to_string();
    let aperture = Aperture::builder;
    assert_eq!(message(aperture().min(0)), "an aperture is at least 1 endpoint wide, not 0");
    assert_eq!(message(aperture().min(5).max(4)), "an aperture cannot be at least 5 and at most 4 endpoints wide");
    for (low, high) in [(2.0, 2.0), (3.0, 2.0), (0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::NAN)] {
        assert!(matches!(aperture().loads(low, high).build(), Err(InvalidAperture::Loads { .. })), "{low} {high}");
    }
    assert_eq!(
        message(aperture().loads(0.5, f64::INFINITY)),
        "a load band from 0.5 to inf is not one between finite numbers above zero"
    );
    assert_eq!(message(aperture().window(Duration::ZERO)), "load cannot be smoothed over 0ns");
    for (ordinal, total) in [(0, 0), (3, 3), (9, 3)] {
        assert_eq!(Peer::new(ordinal, total), Err(InvalidPeer { ordinal, total }));
    }
    assert_eq!(Peer::new(3, 3).unwrap_err().to_string(), "there is no peer 3 among 3, counted from 0");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_endpoints_are_listed_the_same_are_inside(
        ids in hash_set(0_u64..10_000, 1..60), min in 1_usize..20, client: u64, total in 1_usize..40, shift in 0_usize..60,
    ) {
        let mut world = World::new(ids.len());
        world.ids = ids.into_iter().collect();
        let mut other = world.clone();
        other.ids.sort_unstable();
        other.ids.rotate_left(shift % world.ids.len());
        let by_peer = peer(client as usize % total, total).min(min).build().unwrap();
        for aperture in [Aperture::builder().client(client).min(min).build().unwrap(), by_peer] {
            prop_assert_eq!(world.used(&*world.bind(&aperture)), other.used(&*other.bind(&aperture)));
        }
    }

    #[test]
    fn by_client_an_endpoint_that_goes_lets_in_one_other_at_most(
        n in 2_usize..60, min in 1_usize..30, client: u64, gone in 0_usize..60,
    ) {
        let world = World::new(n);
        let aperture = Aperture::builder().client(client).min(min).build().unwrap();
        let strategy = world.bind(&aperture);
        let before = world.used(&*strategy);
        let (fewer, gone) = (world.without(gone % n), world.ids[gone % n]);
        let after = fewer.used(&*fewer.bind(&*strategy));
        prop_assert_eq!(after.len(), min.min(n - 1));
        let new = after.iter().filter(|id| !before.contains(id)).count();
        prop_assert!(new <= usize::from(before.contains(&gone)));
    }

    #[test]
    fn a_wider_one_holds_the_narrower_one(n in 1_usize..60, client in 0_usize..40, total in 1_usize..40, width in 1_usize..60) {
        let world = World::new(n);
        let client = client % total;
        for by in [Aperture::builder().client(client as u64), peer(client, total)] {
            let used = |min| world.used(&*world.bind(&by.clone().min(min).build().unwrap()));
            let (narrow, wide) = (used(width), used(width + 1));
            prop_assert!(narrow.iter().all(|id| wide.contains(id)));
            prop_assert!(narrow.len() >= width.min(n));
        }
    }
}
