//! **Subsets by peer are even**: of 300 servers with 200 clients none has more than 1.5 times the connections of another,
//! if each client has at least 11. A server that goes moves at most 2/N of all connections of subsets; of apertures, whose
//! rims all move a little, at most one connection of each client.

use linkerd_balance::{Aperture, Balance, Health, LeastLoaded, P2c, Peer, Policy, Subset};

use super::{caught, over};
use crate::rng::Rng;

const CLIENTS: usize = 200;
const SERVERS: u32 = 300;

/// The servers of each client, sorted.
fn connections(policy: impl Fn(usize) -> Policy, servers: &[u32]) -> Vec<Vec<u32>> {
    let now = tokio::time::Instant::now().into_std();
    let of_client = |client| {
        let balance = Balance::new(policy(client), |_: &u32, _: &Health| ());
        balance.update(servers.iter().map(|key| (*key, 1.0))).expect("weights above zero");
        let mut used: Vec<u32> =
            balance.endpoints(now).iter().filter(|info| info.is_used).map(|info| info.key).collect();
        used.sort_unstable();
        used
    };
    (0..CLIENTS).map(of_client).collect()
}

fn even(of_clients: &[Vec<u32>]) -> Result<(), String> {
    let mut counts = vec![0_u64; SERVERS as usize];
    of_clients.iter().flatten().for_each(|key| counts[*key as usize] += 1);
    let (most, least) = (counts.iter().max().copied().unwrap_or(0), counts.iter().min().copied().unwrap_or(0));
    if most * 2 > least * 3 { Err(format!("{least} to {most} connections")) } else { Ok(()) }
}

fn subset(client: usize, size: usize) -> Policy {
    let peer = Peer::new(client, CLIENTS).expect("below the total");
    Policy::new(Subset::of_peer(size, peer, P2c::new()).expect("not zero"), LeastLoaded::new)
}

fn aperture(client: usize, width: usize) -> Policy {
    let peer = Peer::new(client, CLIENTS).expect("below the total");
    let aperture = Aperture::builder().peer(peer).min(width).build().expect("not zero");
    Policy::new(aperture, LeastLoaded::new)
}

/// `most` of so many connections may be made anew.
fn check(mut rng: Rng, policy: impl Fn(usize, usize) -> Policy, most: impl Fn(usize) -> usize) -> Result<(), String> {
    let size = rng.within(11, 60) as usize;
    let mut servers: Vec<u32> = (0..SERVERS).collect();
    let before = connections(|client| policy(client, size), &servers);
    even(&before).map_err(|what| format!("{what} of {size} each"))?;
    servers.remove(rng.below(u64::from(SERVERS)) as usize);
    let after = connections(|client| policy(client, size), &servers);
    let made =
        |(before, after): (&Vec<u32>, &Vec<u32>)| after.iter().filter(|key| before.binary_search(key).is_err()).count();
    let made: usize = before.iter().zip(&after).map(made).sum();
    let all: usize = before.iter().map(Vec::len).sum();
    if made > most(all) {
        return Err(format!("{made} of {all} connections moved with one of {SERVERS}, {size} each"));
    }
    Ok(())
}

fn two_parts(all: usize) -> usize {
    2 * all / SERVERS as usize
}

#[test]
fn subsets_are_even() {
    over("subsets_are_even", 4, |rng| check(rng, subset, two_parts));
}

#[test]
fn apertures_are_even() {
    over("apertures_are_even", 4, |rng| check(rng, aperture, |_| CLIENTS));
}

#[test]
fn chance_is_caught() {
    let by_chance =
        |client, size| Policy::new(Subset::new(size, client as u64, P2c::new()).expect("not zero"), LeastLoaded::new);
    assert!(caught(1, |rng| check(rng, by_chance, two_parts)));
}
