//! Plays a world, event by event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use linkerd_balance::{
    Balance, Breaker, BreakerCounters, Draw, Health, Lease, Mark, Member, Permit, Phase, Status, Unavailable,
};

use crate::{
    model::{Fault, Key, Nanos, SECOND, World},
    policies::Setup,
    rng::Rng,
    server::{Reply, Server},
    watch::{Ended, Outcome, Picked, Watch},
};

/// What zones are called.
pub(crate) const ZONES: [&str; 3] = ["a", "b", "c"];

/// What a lease gives: the way to tell an endpoint's breaker what came of a request.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    health: Health,
    breaker: Breaker,
    // An endpoint that comes again is another one.
    life: u64,
}

/// A world being played.
pub(crate) struct Sim<'w> {
    world: &'w World,
    base: Instant,
    now: Nanos,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    // Of two events at one instant the one that was planned first comes first.
    planned: u64,
    // All clients wait equally long, so these come in order; those of requests that ended are skipped.
    timeouts: VecDeque<(Nanos, Id)>,
    clients: Vec<Client>,
    servers: Vec<Server<Id>>,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    // Which endpoints are in the set.
    present: Vec<bool>,
    rng: Rng,
    requests_so_far: u64,
}

struct Client {
    balance: Balance<Key, Stack>,
    counters: BreakerCounters,
}

/// A request's place, and which of those that had this place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    slot: usize,
    number: u64,
}

struct Request {
    number: u64,
    client: usize,
    key: Key,
    begun: Nanos,
    lease: Lease<Key, Stack>,
    permit: Option<Permit>,
    // Its caller has the head of the answer.
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival {
        client: usize,
    },
    Head {
        id: Id,
        success: bool,
    },
    /// A head, after which nothing comes.
    Stall {
        id: Id,
    },
    /// The endpoint is done with it, whether or not the client still waits.
    Done {
        key: Key,
        id: Id,
        success: bool,
    },
    Error {
        id: Id,
    },
    Cancel {
        id: Id,
    },
    Fault {
        index: usize,
    },
    Set {
        index: usize,
    },
}

impl<'w> Sim<'w> {
    pub(crate) fn new(world: &'w World, setup: &Setup, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let servers = world.endpoints.iter().map(|endpoint| Server::new(*endpoint, rng.fork())).collect();
        let clients = (0..world.clients)
            .map(|ordinal| {
                let counters = BreakerCounters::default();
                let (accrual, backoff, shared) = (setup.accrual, setup.backoff, counters.clone());
                let (seed, lives) = (rng.next(), AtomicU64::new(0));
                let balance = Balance::new((setup.policy)(ordinal, world.clients), move |_: &Key, health: &Health| {
                    let life = lives.fetch_add(1, Ordering::Relaxed);
                    let breaker =
                        Breaker::with_counters(accrual(), backoff, health.clone(), shared.clone(), seed ^ life);
                    Stack { health: health.clone(), breaker, life }
                });
                Client { balance, counters }
            })
            .collect();
        let mut sim = Self {
            world,
            base: tokio::time::Instant::now().into_std(),
            now: 0,
            events: BinaryHeap::new(),
            planned: 0,
            timeouts: VecDeque::new(),
            clients,
            servers,
            requests: Vec::new(),
            free: Vec::new(),
            present: vec![false; world.endpoints.len()],
            rng,
            requests_so_far: 0,
        };
        for (index, (at, _)) in world.sets.iter().enumerate() {
            sim.plan(*at, Event::Set { index });
        }
        for (index, (at, ..)) in world.faults.iter().enumerate() {
            sim.plan(*at, Event::Fault { index });
        }
        for client in 0..world.clients {
            sim.plan_arrival(client);
        }
        sim
    }

    /// Plays on until `until`, which has not come yet.
    pub(crate) fn run(&mut self, until: Nanos, watch: &mut impl Watch) {
        while let Some(next) = self.next_instant().filter(|next| *next < until) {
            self.now = next;
            self.step(watch);
        }
        self.now = until;
    }

    /// Plays to the end of the world, and until everything in flight has ended.
    pub(crate) fn finish(&mut self, watch: &mut impl Watch) {
        self.run(self.world.length, watch);
        while let Some(next) = self.next_instant() {
            self.now = next;
            self.step(watch);
        }
    }

    pub(crate) fn world(&self) -> &World {
        self.world
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now
    }

    /// The instant that the crate takes for now.
    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    pub(crate) fn balance(&self, client: usize) -> &Balance<Key, Stack> {
        &self.clients[client].balance
    }

    pub(crate) fn counters(&self, client: usize) -> &BreakerCounters {
        &self.clients[client].counters
    }

    /// How many endpoints of a client are left alone by their breakers, or probed.
    pub(crate) fn left_alone(&self, client: usize) -> usize {
        let services = self.clients[client].balance.services();
        services.iter().filter(|(_, stack)| stack.breaker.phase() != Phase::Alive).count()
    }

    /// How many requests began.
    pub(crate) fn requests(&self) -> u64 {
        self.requests_so_far
    }

    /// Each endpoint of a client, its requests in flight by the balancer's books, and by the simulator's own.
    pub(crate) fn in_flight(&self, client: usize) -> Vec<(Key, usize, usize)> {
        let mut real: HashMap<u64, usize> = HashMap::new();
        for req in self.requests.iter().flatten().filter(|req| req.client == client) {
            *real.entry(req.lease.life).or_default() += 1;
        }
        let balance = &self.clients[client].balance;
        let endpoints = balance.endpoints(self.instant()).into_iter().zip(balance.services());
        let both = endpoints.map(|(info, (key, stack))| {
            assert_eq!(info.key, key, "both are in one order");
            (key, info.pending, real.get(&stack.life).copied().unwrap_or(0))
        });
        both.collect()
    }

    fn next_instant(&self) -> Option<Nanos> {
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        let timeout = self.timeouts.front().map(|(at, _)| *at);
        match (event, timeout) {
            (Some(event), Some(timeout)) => Some(event.min(timeout)),
            (event, timeout) => event.or(timeout),
        }
    }

    fn step(&mut self, watch: &mut impl Watch) {
        // An answer that comes together with the timeout is still an answer.
        match self.events.peek() {
            Some(Reverse((at, ..))) if *at <= self.now => {
                let Some(Reverse((.., event))) = self.events.pop() else { return };
                self.play(event, watch);
            }
            _ => {
                let Some((_, id)) = self.timeouts.pop_front() else { return };
                if self.get(id).is_some_and(|req| !req.answered) {
                    self.end(id, Outcome::TimedOut, watch);
                }
            }
        }
    }

    fn play(&mut self, event: Event, watch: &mut impl Watch) {
        match event {
            Event::Arrival { client } => {
                self.arrive(client, watch);
                self.plan_arrival(client);
            }
            Event::Head { id, success } => self.head(id, success, watch),
            Event::Stall { id } => drop(self.mark_head(id, true)),
            Event::Done { key, id, success } => {
                self.servers[key as usize].release();
                self.end(id, if success { Outcome::Success } else { Outcome::Failure }, watch);
                self.dequeue(key);
            }
            Event::Error { id } => self.end(id, Outcome::Failure, watch),
            Event::Cancel { id } => self.end(id, Outcome::Cancelled, watch),
            Event::Fault { index } => self.fault(index, watch),
            Event::Set { index } => self.set(index),
        }
    }

    fn arrive(&mut self, client: usize, watch: &mut impl Watch) {
        self.requests_so_far += 1;
        let (now, instant) = (self.now, self.instant());
        let draw = Draw::new(self.rng.next()).with_key(Rng::new(self.rng.below(self.world.sessions)).next());
        let balance = &self.clients[client].balance;
        let lease = match balance.try_acquire(draw, instant, &[]) {
            Ok(lease) => lease,
            Err(why) => {
                let fast = matches!(why, Unavailable::FailFast { .. });
                let outcome = if fast { Outcome::Refused } else { Outcome::Nowhere };
                watch.ended(Ended { now, begun: now, outcome });
                return;
            }
        };
        let (key, status) = (*lease.key(), lease.health.status(instant));
        let best = if status == Status::Open {
            status
        } else {
            balance.endpoints(instant).iter().map(|endpoint| endpoint.status).max().unwrap_or(status)
        };
        let permit = lease.breaker.admit(instant);
        watch.picked(Picked { now, key, status, best });

        let number = self.requests_so_far;
        let req = Request { number, client, key, begun: now, lease, permit: Some(permit), answered: false };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        self.requests[slot] = Some(req);
        let id = Id { slot, number };
        self.timeouts.push_back((now + self.world.timeout, id));
        if self.rng.chance(self.world.cancel_per_mille) {
            let patience = self.world.endpoints[key as usize].service.mean() * 2;
            let at = now + self.rng.below(patience);
            self.plan(at, Event::Cancel { id });
        }
        let reply = self.servers[key as usize].accept(id, now);
        self.reply(key, id, reply);
    }

    fn reply(&mut self, key: Key, id: Id, reply: Reply) {
        match reply {
            Reply::Answer { head, body, success } => {
                if body > 0 {
                    self.plan(self.now + head, Event::Head { id, success });
                }
                self.plan(self.now + head + body, Event::Done { key, id, success });
            }
            Reply::Error { after } => self.plan(self.now + after, Event::Error { id }),
            Reply::Head { after } => self.plan(self.now + after, Event::Stall { id }),
            Reply::Queued | Reply::Never => {}
        }
    }

    fn dequeue(&mut self, key: Key) {
        while let Some(id) = self.servers[key as usize].next_queued() {
            // Those whose client gave up while they waited take no slot.
            if self.get(id).is_some() {
                let reply = self.servers[key as usize].serve(self.now);
                self.reply(key, id, reply);
            }
        }
    }

    fn head(&mut self, id: Id, success: bool, watch: &mut impl Watch) {
        let now = self.now;
        let Some(req) = self.mark_head(id, success) else { return };
        req.answered = true;
        let outcome = if success { Outcome::Success } else { Outcome::Failure };
        let ended = Ended { now, begun: req.begun, outcome };
        watch.ended(ended);
    }

    /// The balancer and the breaker see the head.
    fn mark_head(&mut self, id: Id, success: bool) -> Option<&mut Request> {
        let instant = self.instant();
        let req = self.get(id)?;
        req.lease.mark(Mark::Headers, success, instant);
        if let Some(permit) = req.permit.take() {
            permit.record(success, instant);
        }
        Some(req)
    }

    fn end(&mut self, id: Id, outcome: Outcome, watch: &mut impl Watch) {
        let (now, instant) = (self.now, self.instant());
        if self.get(id).is_none() {
            return;
        }
        let Some(req) = self.requests[id.slot].take() else { return };
        self.free.push(id.slot);
        if outcome == Outcome::Cancelled || outcome == Outcome::TimedOut && self.world.goes_away {
            // As if they were dropped, but in our time.
            req.lease.cancel(instant);
            if let Some(permit) = req.permit {
                permit.record(linkerd_balance::Outcome::Neutral, instant);
            }
        } else {
            let success = outcome == Outcome::Success;
            req.lease.end(success, instant);
            if let Some(permit) = req.permit {
                permit.record(success, instant);
            }
        }
        if !req.answered {
            watch.ended(Ended { now, begun: req.begun, outcome });
        }
    }

    fn fault(&mut self, index: usize, watch: &mut impl Watch) {
        let (_, key, fault) = self.world.faults[index];
        self.servers[key as usize].set_fault(fault);
        if fault == Some(Fault::Dies) {
            let of_key = |(slot, req): (usize, &Option<Request>)| {
                req.as_ref().filter(|req| req.key == key).map(|req| Id { slot, number: req.number })
            };
            let lost: Vec<Id> = self.requests.iter().enumerate().filter_map(of_key).collect();
            for id in lost {
                self.end(id, Outcome::Failure, watch);
            }
        }
    }

    fn set(&mut self, index: usize) {
        let (_, keys) = &self.world.sets[index];
        let was = std::mem::replace(&mut self.present, vec![false; self.servers.len()]);
        for key in keys {
            self.present[*key as usize] = true;
            if !was[*key as usize] {
                self.servers[*key as usize].start(self.now);
            }
        }
        let now = self.instant();
        for client in &self.clients {
            let members = keys.iter().map(|key| {
                let endpoint = &self.world.endpoints[*key as usize];
                Member::new(*key).weight(endpoint.weight).zone(ZONES[endpoint.zone as usize])
            });
            client.balance.update_at(members, now).expect("worlds have weights above zero");
        }
    }

    fn plan_arrival(&mut self, client: usize) {
        let mean = SECOND * self.world.clients as u64 / self.world.rate;
        let at = self.now + self.rng.gap(mean);
        if at < self.world.length {
            self.plan(at, Event::Arrival { client });
        }
    }

    fn plan(&mut self, at: Nanos, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, event)));
    }

    fn get(&mut self, id: Id) -> Option<&mut Request> {
        self.requests[id.slot].as_mut().filter(|req| req.number == id.number)
    }
}
