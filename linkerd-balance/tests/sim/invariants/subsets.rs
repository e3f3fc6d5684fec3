//! **Subsets by peer are even**: no server has more than 1.5 times the connections of another, if they have eight on
//! average: as of 300 servers with 200 clients, if each client has 12. A server that goes moves at most 2/N of all
//! connections of subsets of these, and in smaller fleets, where chance has more to say, 2.5 times what a server has; of apertures, whose rims all move a little and which may have to be one
//! peer wider then, at most two connections of each client and a peer's part of the servers.
//!
//! Fleets are of 16 to 32 clients and 17 to 60 servers, and a few of 200 and 300: each client works out the subsets of
//! all, which takes its time. Not among these are the numbers of servers at which bounds have their steps, see
//! [`Subset`].

use linkerd_balance::{Aperture, Candidates, P2c, Peer, Status, Strategy, Subset};

use super::{caught, over};
use crate::rng::Rng;

/// Servers that have nothing to do, by their ids.
struct Servers(Vec<u64>);

impl Candidates for Servers {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn status(&self, _: usize) -> Status {
        Status::Open
    }

    fn load(&self, _: usize, more: usize) -> f64 {
        more as f64
    }

    fn weight(&self, _: usize) -> f64 {
        1.0
    }

    fn id(&self, i: usize) -> u64 {
        self.0[i]
    }

    fn pending(&self, _: usize) -> usize {
        0
    }

    fn now(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[derive(Clone, Copy)]
struct Fleet {
    clients: usize,
    servers: usize,
    /// Servers of each client.
    size: usize,
}

impl Fleet {
    fn random(rng: &mut Rng) -> Self {
        let (clients, servers) = if rng.chance(2) {
            (200, 300)
        } else {
            let servers = rng.within(17, 60);
            // What follows from the four highest bits alone changes at a multiple of the rest.
            let step = 1_u64 << (60 - servers.leading_zeros());
            (rng.within(16, 32) as usize, (servers + u64::from(servers.is_multiple_of(step))) as usize)
        };
        let least = (8 * servers).div_ceil(clients);
        let size = rng.within(least as u64, (3 * least).min(servers - 1) as u64) as usize;
        Self { clients, servers, size }
    }

    /// The servers of each client.
    fn connections(self, servers: &Servers, strategy: fn(usize, Peer) -> Box<dyn Strategy>) -> Vec<Vec<u64>> {
        let of_client = |client| {
            let strategy = strategy(self.size, Peer::new(client, self.clients).expect("below the total"));
            let strategy = strategy.rebuild(servers).expect("it prepares");
            (0..servers.len()).filter(|i| strategy.uses(servers, *i)).map(|i| servers.id(i)).collect()
        };
        (0..self.clients).map(of_client).collect()
    }
}

fn even(of_clients: &[Vec<u64>], servers: &Servers) -> Result<(), String> {
    let count = |id| of_clients.iter().filter(|used| used.contains(id)).count();
    let counts: Vec<usize> = servers.0.iter().map(count).collect();
    let (most, least) = (counts.iter().max().copied().unwrap_or(0), counts.iter().min().copied().unwrap_or(0));
    if most * 2 > least * 3 { Err(format!("{least} to {most} connections")) } else { Ok(()) }
}

/// When a server goes that has so many connections of so many, at most so many are made anew.
type Most = fn(Fleet, usize, usize) -> usize;

fn check(mut rng: Rng, strategy: fn(usize, Peer) -> Box<dyn Strategy>, most: Most) -> Result<(), String> {
    let fleet @ Fleet { clients, servers, size } = Fleet::random(&mut rng);
    let of = format!("of {clients} clients with {size} of {servers} servers each");
    let mut ids = rng.fork();
    let mut servers = Servers((0..servers).map(|_| ids.next()).collect());
    let before = fleet.connections(&servers, strategy);
    even(&before, &servers).map_err(|what| format!("{what} {of}"))?;
    let gone = servers.0.remove(rng.below(servers.0.len() as u64) as usize);
    let own = before.iter().filter(|used| used.contains(&gone)).count();
    let after = fleet.connections(&servers, strategy);
    let made = |(before, after): (&Vec<u64>, &Vec<u64>)| after.iter().filter(|id| !before.contains(id)).count();
    let made: usize = before.iter().zip(&after).map(made).sum();
    let all: usize = before.iter().map(Vec::len).sum();
    if made > most(fleet, own, all) {
        return Err(format!("{made} of {all} connections moved with one server {of}"));
    }
    Ok(())
}

fn subset(size: usize, peer: Peer) -> Box<dyn Strategy> {
    Box::new(Subset::of_peer(size, peer, P2c::new()).expect("not zero"))
}

fn aperture(size: usize, peer: Peer) -> Box<dyn Strategy> {
    Box::new(Aperture::builder().peer(peer).min(size).build().expect("not zero"))
}

fn two_parts(fleet: Fleet, own: usize, all: usize) -> usize {
    match fleet.servers {
        300 => 2 * all / 300,
        servers => 5 * own.max(all.div_ceil(servers)) / 2,
    }
}

fn rims(fleet: Fleet, _own: usize, _all: usize) -> usize {
    fleet.clients * (2 + fleet.servers.div_ceil(fleet.clients))
}

#[test]
fn subsets_are_even() {
    over("subsets_are_even", |seed| check(Rng::new(seed), subset, two_parts));
}

#[test]
fn apertures_are_even() {
    over("apertures_are_even", |seed| check(Rng::new(seed), aperture, rims));
}

#[test]
fn chance_is_caught() {
    fn by_chance(size: usize, peer: Peer) -> Box<dyn Strategy> {
        Box::new(Subset::new(size, peer.ordinal() as u64, P2c::new()).expect("not zero"))
    }
    assert!(caught(3, |rng| check(rng, by_chance, two_parts)));
}
