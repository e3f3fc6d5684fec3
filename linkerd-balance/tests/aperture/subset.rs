//! Subsets of fixed size.

use std::sync::Arc;

use linkerd_balance::{Aperture, Candidates, Draw, P2c, Peer, Status, Strategy, Subset};

use crate::world::{World, chi_square, connections, draws, moved, ratio};

const CLIENTS: usize = 200;
const SERVERS: usize = 300;

fn of_client(size: usize, client: u64) -> Subset {
    Subset::new(size, client, P2c::new()).unwrap()
}

fn of_peer(size: usize, ordinal: usize, total: usize) -> Subset {
    Subset::of_peer(size, Peer::new(ordinal, total).unwrap(), P2c::new()).unwrap()
}

fn by_client(world: &World, size: usize) -> Vec<Vec<u64>> {
    (0..CLIENTS as u64).map(|client| world.used(&*world.bind(&of_client(size, client)))).collect()
}

#[test]
fn clients_that_know_nothing_of_each_other_are_even_where_they_take_enough() {
    let world = World::new(SERVERS);
    for (size, even) in [(20, false), (100, false), (180, true)] {
        let used = by_client(&world, size);
        assert!(used.iter().all(|used| used.len() == size));
        let connections = connections(&world, &used);
        // That it is not is what the documentation says, too.
        assert_eq!(ratio(&connections) <= 1.5, even, "{size}: {}", ratio(&connections));
    }
}

#[test]
fn a_server_that_goes_moves_its_own_connections() {
    let world = World::new(SERVERS);
    for size in [20, 100] {
        let before = by_client(&world, size);
        for gone in [0, 123, 299] {
            let fewer = world.without(gone);
            let after = by_client(&fewer, size);
            assert!(moved(&before, &after, SERVERS) <= 2.0);
            // And if it comes back, it finds them again.
            assert!(moved(&after, &before, SERVERS) <= 2.0);
        }
    }
}

#[test]
fn peers_are_even_with_far_fewer() {
    // As 200 clients of 300 servers with 12 each, only quicker.
    const CLIENTS: usize = 60;
    let world = World::new(90);
    let fewer = world.without(12);
    let peers = |world: &World| -> Vec<Vec<u64>> {
        (0..CLIENTS).map(|peer| world.used(&*world.bind(&of_peer(12, peer, CLIENTS)))).collect()
    };
    let (before, after) = (peers(&world), peers(&fewer));
    assert!(before.iter().chain(&after).all(|used| used.len() == 12));
    assert!(ratio(&connections(&world, &before)) <= 1.5);
    assert!(ratio(&connections(&fewer, &after)) <= 1.5);
    assert!(moved(&before, &after, 90) <= 2.0, "{}", moved(&before, &after, 90));
}

/// The 99 % point of chi-square with five degrees of freedom.
const CHI_SQUARE_5_99: f64 = 15.086;

#[test]
fn picks_follow_weights_within_the_subset() {
    let mut world = World::new(20);
    for (i, weight) in world.weight.iter_mut().enumerate() {
        *weight = 1.0 + (i % 3) as f64;
    }
    let strategy = world.bind(&of_client(6, 9));
    let mut seen = [0; 20];
    for draw in draws().take(100_000) {
        seen[strategy.pick(&world, draw)] += 1;
    }
    let inside: Vec<usize> = (0..20).filter(|i| strategy.uses(&world, *i)).collect();
    let (picked, weights): (Vec<u32>, Vec<f64>) = inside.iter().map(|i| (seen[*i], world.weight[*i])).unzip();
    assert_eq!(picked.iter().sum::<u32>(), 100_000);
    assert!(chi_square(&picked, &weights) < CHI_SQUARE_5_99, "{picked:?} {weights:?}");
}

#[test]
fn when_all_inside_fail_the_next_so_many_are_used() {
    let mut world = World::new(30);
    let strategy = world.bind(&of_client(4, 1));
    for i in 0..30 {
        if strategy.uses(&world, i) {
            world.status[i] = Status::Closed;
        }
    }
    let mut seen = vec![0; 30];
    for draw in draws().take(1_000) {
        seen[strategy.pick(&world, draw)] += 1;
    }
    assert_eq!(seen.iter().filter(|n| **n > 0).count(), 4, "{seen:?}");
    assert!((0..30).all(|i| seen[i] == 0 || world.status[i] == Status::Open));
}

#[test]
fn who_is_inside_follows_from_ids_and_client_alone() {
    // Pinned: another answer would move every client's connections when it is upgraded.
    let mut world = World::new(12);
    world.ids = (100..112).collect();
    assert_eq!(world.used(&*world.bind(&of_client(3, 42))), [102, 107, 109]);
    assert_eq!(world.used(&*world.bind(&of_peer(4, 3, 9))), [100, 101, 106, 108]);
}

/// Counts the sets it was made for, and picks its first candidate.
#[derive(Debug)]
struct First(usize);

impl Strategy for First {
    fn pick(&self, nodes: &dyn Candidates, _draw: Draw) -> usize {
        assert_eq!(nodes.len(), 3, "it sees the subset");
        0
    }

    fn name(&self) -> &'static str {
        ["none", "one", "two"][self.0]
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        assert_eq!(nodes.len(), 3);
        Some(Arc::new(Self(self.0 + 1)))
    }
}

#[test]
fn the_inner_strategy_is_made_for_each_subset_and_keeps_its_state() {
    let world = World::new(10);
    let one = world.bind(&Subset::new(3, 1, First(0)).unwrap());
    assert_eq!(one.name(), "one");
    let fewer = world.without(4);
    let two = fewer.bind(&*one);
    assert_eq!(two.name(), "two");
    let i = two.pick(&fewer, Draw::new(1));
    assert!(two.uses(&fewer, i));
}

#[test]
fn an_aperture_fits_into_a_subset() {
    let world = World::new(50);
    let aperture = Aperture::builder().client(1).min(2).build().unwrap();
    let strategy = world.bind(&Subset::new(10, 1, aperture).unwrap());
    let (used, outer) = (world.used(&*strategy), world.used(&*world.bind(&of_client(10, 1))));
    assert_eq!((used.len(), outer.len()), (2, 10));
    assert!(used.iter().all(|id| outer.contains(id)));
}

#[test]
fn a_subset_larger_than_the_set_is_all_of_it() {
    let world = World::new(3);
    assert_eq!(world.used(&*world.bind(&of_client(9, 1))).len(), 3);
    assert_eq!(world.used(&*world.bind(&of_peer(9, 0, 2))).len(), 3);
    let none = World::new(0);
    assert!(none.used(&*none.bind(&of_client(9, 1))).is_empty());
    assert!(none.used(&*none.bind(&of_peer(9, 0, 2))).is_empty());
}

#[test]
fn a_subset_of_none_is_named() {
    let message = "a subset has at least 1 endpoint, not 0";
    assert_eq!(Subset::new(0, 1, P2c::new()).unwrap_err().to_string(), message);
    assert_eq!(Subset::of_peer(0, Peer::new(0, 1).unwrap(), P2c::new()).unwrap_err().to_string(), message);
}
