//! A service with a number of workers and a queue, requests that come by chance, and a clock that is a number.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

/// xorshift64*: random bits that are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// From 0 to 1, neither included.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// With this mean.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

/// What happens next.
pub(crate) enum Event<T> {
    /// A request comes.
    Arrival,
    /// One that was let in is done, and this came with it.
    Done(T),
}

/// How the service is, and how much it has to do, at one time.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// How many the service works on at a time.
    pub(crate) workers: usize,
    /// Seconds one takes on average, by an exponential distribution.
    pub(crate) service: f64,
}

impl Load {
    /// Requests a second that the service can do.
    pub(crate) fn capacity(&self) -> f64 {
        self.workers as f64 / self.service
    }
}

/// The service and those who call it. Its time is in seconds from 0.
pub(crate) struct Sim<T> {
    pub(crate) now: f64,
    start: Instant,
    dice: Dice,
    next_arrival: f64,
    busy: BinaryHeap<Reverse<(u64, u64)>>,
    tags: Vec<Option<T>>,
    free: Vec<u64>,
    waiting: VecDeque<T>,
}

impl<T> Sim<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0.0,
            start: tokio::time::Instant::now().into_std(),
            dice: Dice::new(seed),
            next_arrival: 0.0,
            busy: BinaryHeap::new(),
            tags: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The time as the limits want it.
    pub(crate) fn instant(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.now)
    }

    /// The next event under this load, and the time is its time.
    pub(crate) fn next(&mut self, load: &Load) -> Event<T> {
        let done = self.busy.peek().map(|Reverse((at, _))| *at as f64 / 1e9);
        if let Some(at) = done.filter(|at| *at <= self.next_arrival) {
            self.now = at;
            let Reverse((_, slot)) = self.busy.pop().unwrap();
            self.free.push(slot);
            let tag = self.tags[slot as usize].take().unwrap();
            self.work(load);
            return Event::Done(tag);
        }
        self.now = self.next_arrival;
        self.next_arrival = self.now + self.dice.exponential(1.0 / load.rate);
        Event::Arrival
    }

    /// Lets a request in.
    pub(crate) fn send(&mut self, tag: T, load: &Load) {
        self.waiting.push_back(tag);
        self.work(load);
    }

    fn work(&mut self, load: &Load) {
        while self.busy.len() < load.workers
            && let Some(tag) = self.waiting.pop_front()
        {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.tags.push(None);
                self.tags.len() as u64 - 1
            });
            self.tags[slot as usize] = Some(tag);
            let end = self.now + self.dice.exponential(load.service);
            self.busy.push(Reverse(((end * 1e9) as u64, slot)));
        }
    }
}
