//! The better of two, of as few endpoints as the load needs.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    band::{Band, Change},
    layout::Layout,
};
use super::{
    Candidates, Draw, P2c, Strategy,
    subset::{Heaviest, Peer, Within},
};
use crate::{health::Status, rng};

mod band;
pub(super) mod layout;

/// [`P2c`] within a subset, the *aperture*, which is as wide as the load needs.
///
/// With few requests in flight few endpoints are used: each of them keeps its connections warm and sees enough requests
/// to be judged by, and idle clients hold few connections. The width follows the requests in flight for each endpoint
/// of the aperture, averaged over a window: above the band of [`loads`](ApertureBuilder::loads) it widens, below it
/// narrows, each time to the width at that edge of the band, so that only a load that crosses the whole band turns it
/// round. A width counts endpoints that are open; for those that are not, others further on are taken in besides, and
/// if a pick finds no open one inside, it looks further at once. Only if no endpoint is open at all, the aperture fails
/// open.
///
/// # Which endpoints
///
/// Each client takes them in in an order of its own, which follows from the endpoints' ids alone: a set that changes
/// moves no other endpoint, but those at the rim of the aperture.
///
/// - By chance (the default): the order is hashed with a seed drawn when the aperture is built. Finagle's random
///   aperture.
/// - By [`client`](ApertureBuilder::client): hashed with a number of the client's, so that a client finds its endpoints
///   again when it restarts (rendezvous hashing). Both spread clients over servers as chance does: with `c` clients and
///   `s` servers, a server has `c·width/s` of them on average, give or take the root of that.
/// - By [`peer`](ApertureBuilder::peer): all clients share one ring of the servers, and each has its own slice of it,
///   which begins at its part of the ring and is as many such parts long as cover the width. Of an endpoint that lies
///   in it in part only that part counts, in weight and in load. So while all peers are equally wide and all weights
///   equal, every server gets the same share of their requests, and of their connections the same number but for one.
///   The price: all must know how many they are, and with few peers a slice is wider than asked for, since together
///   they cover all servers. A server that comes or goes moves the ends of every slice, by less than an endpoint; or by
///   a part of the ring, where the width takes another number of them. For few moves at small widths see
///   [`Subset::of_peer`](crate::Subset::of_peer). Finagle's deterministic aperture, except that there the width does
///   not follow the load.
///
/// # How often
///
/// The load is looked at by picks, a fiftieth of the window apart at the earliest; nothing runs beside them. What the
/// last pick before found in flight is taken to have been so until then, for a window at most. So callers that all come
/// at once, wait, and come again count for as long as they wait. After a long silence the next pick, or the next [`Strategy::uses`], finds no load all that time and narrows at
/// once.
///
/// # Defaults
///
/// Linkerd's: a window of 5 s (`smoothWindowMs`), a band from 0.5 to 2 (`lowLoad`, `highLoad`), at least one endpoint
/// (`minAperture`), five pairs at most (`maxEffort`). No greatest width.
///
/// After Finagle's `ApertureLeastLoaded` and `LoadBand` (Apache-2.0), which step by one endpoint at each begin and end
/// of a request, and which sort unavailable endpoints to the end.
#[derive(Clone, Debug)]
pub struct Aperture {
    settings: Settings,
    meter: ApertureMeter,
}

/// Settings of an [`Aperture`].
#[derive(Clone, Debug)]
#[must_use = "a builder builds nothing until told to"]
pub struct ApertureBuilder {
    window: Duration,
    low: f64,
    high: f64,
    min: usize,
    max: usize,
    max_effort: NonZeroUsize,
    order: Option<Order>,
}

/// Why there is no such aperture.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAperture {
    /// It could hold no endpoint.
    #[error("an aperture is at least 1 endpoint wide, not {0}")]
    Min(usize),
    /// It could hold no number of endpoints.
    #[error("an aperture cannot be at least {min} and at most {max} endpoints wide")]
    Max {
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// The load band is empty, or not above zero.
    #[error("a load band from {low} to {high} is not one between finite numbers above zero")]
    Loads {
        /// Where it begins.
        low: f64,
        /// Where it ends.
        high: f64,
    },
    /// No time to smooth over.
    #[error("load cannot be smoothed over {0:?}")]
    Window(Duration),
}

/// How wide an [`Aperture`] is, and how often that changed. A clone is the same meter.
///
/// As of the last pick, update or [`Strategy::uses`]. Balancers that were given the same aperture write to the same
/// meter.
#[derive(Clone, Debug, Default)]
pub struct ApertureMeter(Arc<Counters>);

/// How wide the [`Aperture`] of a balancer is, as of one instant: what its [`ApertureMeter`] has, for one balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ApertureWidth {
    /// How many open endpoints the load asks for: Finagle's `logical_aperture`.
    pub logical: usize,
    /// How many endpoints are in use, with those that are not open: Finagle's `physical_aperture`.
    pub physical: usize,
    /// Requests in flight in the aperture, averaged: Finagle's `loadband/offered_load_ema`.
    pub in_flight: f64,
    /// How often the load widened it, so far: Finagle's `loadband/widen`.
    pub widened: u64,
    /// How often the load narrowed it, so far: Finagle's `loadband/narrow`.
    pub narrowed: u64,
    /// Whether it is the slice of a [`peer`](ApertureBuilder::peer): Finagle's `use_deterministic_ordering`.
    pub is_slice: bool,
}

#[derive(Debug, Default)]
struct Counters {
    logical: AtomicUsize,
    physical: AtomicUsize,
    in_flight: AtomicU64,
    widened: AtomicU64,
    narrowed: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Hash(u64),
    Ring(Peer),
}

#[derive(Clone, Debug)]
struct Settings {
    band: Band,
    interval: Duration,
    p2c: P2c,
    order: Order,
}

/// Endpoints that a pick reads at most to count requests in flight, on average.
const COUNTED: usize = 8;

/// An aperture over one set.
#[derive(Debug)]
struct Bound {
    settings: Settings,
    // The aperture's, and this balancer's own.
    meters: [ApertureMeter; 2],
    // Handed on from set to set. Held for the arithmetic of one look; whoever finds it held goes on without.
    band: Arc<Mutex<Band>>,
    // Requests in flight in the aperture, as the last pick found them.
    found: AtomicUsize,
    layout: Layout,
    // With those that make up for endpoints that are not open.
    width: AtomicUsize,
    heaviest: Heaviest,
    // When the load is looked at next: nanoseconds since `epoch`.
    epoch: Instant,
    next: AtomicU64,
}

impl Aperture {
    /// The window where none is chosen: Linkerd's `smoothWindowMs`.
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(5);
    /// The low end of the band where none is chosen: Linkerd's `lowLoad`.
    pub const DEFAULT_LOW_LOAD: f64 = 0.5;
    /// The high end of the band where none is chosen: Linkerd's `highLoad`.
    pub const DEFAULT_HIGH_LOAD: f64 = 2.0;
    /// The least width where none is chosen: Linkerd's `minAperture`.
    pub const DEFAULT_MIN: usize = 1;

    /// With the defaults, to be changed.
    pub const fn builder() -> ApertureBuilder {
        ApertureBuilder {
            window: Self::DEFAULT_WINDOW,
            low: Self::DEFAULT_LOW_LOAD,
            high: Self::DEFAULT_HIGH_LOAD,
            min: Self::DEFAULT_MIN,
            max: usize::MAX,
            max_effort: P2c::DEFAULT_MAX_EFFORT,
            order: None,
        }
    }

    /// Where its width can be read.
    #[must_use]
    pub fn meter(&self) -> ApertureMeter {
        self.meter.clone()
    }
}

impl ApertureBuilder {
    /// Averages the load over `window`: what was so long ago counts 1/e. Above zero.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Keeps the requests in flight for each endpoint of the aperture between `low` and `high`, as a new request finds
    /// them. Finite, above zero, `low` below `high`.
    pub const fn loads(mut self, low: f64, high: f64) -> Self {
        self.low = low;
        self.high = high;
        self
    }

    /// At least so wide, if there are so many endpoints. From 1.
    pub const fn min(mut self, endpoints: usize) -> Self {
        self.min = endpoints;
        self
    }

    /// At most so wide. What makes up for endpoints that are not open comes on top.
    pub const fn max(mut self, endpoints: usize) -> Self {
        self.max = endpoints;
        self
    }

    /// Draws at most this many pairs before it looks at all endpoints of the aperture, and not more than `2n + 8` of `n`.
    pub const fn max_effort(mut self, pairs: NonZeroUsize) -> Self {
        self.max_effort = pairs;
        self
    }

    /// Orders the endpoints by this client's number, such as a hash of its name; clients with the same number have the
    /// same aperture.
    pub const fn client(mut self, id: u64) -> Self {
        self.order = Some(Order::Hash(id));
        self
    }

    /// Takes this peer's slice of the ring that all its peers share.
    pub const fn peer(mut self, peer: Peer) -> Self {
        self.order = Some(Order::Ring(peer));
        self
    }

    /// The aperture.
    ///
    /// # Errors
    ///
    /// The first value that is none.
    pub fn build(self) -> Result<Aperture, InvalidAperture> {
        let Self { window, low, high, min, max, max_effort, order } = self;
        if min == 0 {
            return Err(InvalidAperture::Min(min));
        }
        if max < min {
            return Err(InvalidAperture::Max { min, max });
        }
        if !(low > 0.0 && low < high && high.is_finite()) {
            return Err(InvalidAperture::Loads { low, high }); // NaN ends here too
        }
        if window.is_zero() {
            return Err(InvalidAperture::Window(window));
        }
        let settings = Settings {
            band: Band::new(low, high, window, min, max),
            interval: window / 50,
            p2c: P2c::new().max_effort(max_effort),
            order: order.unwrap_or_else(|| Order::Hash(rng::thread())),
        };
        Ok(Aperture { settings, meter: ApertureMeter::default() })
    }
}

impl Default for ApertureBuilder {
    fn default() -> Self {
        Aperture::builder()
    }
}

impl ApertureMeter {
    /// How many open endpoints the load asks for: Finagle's `logical_aperture`. Zero before the first endpoint came.
    #[must_use]
    pub fn logical(&self) -> usize {
        // Relaxed here and below: numbers for people.
        self.0.logical.load(Ordering::Relaxed)
    }

    /// How many endpoints are in use, with those that are not open: Finagle's `physical_aperture`.
    #[must_use]
    pub fn physical(&self) -> usize {
        self.0.physical.load(Ordering::Relaxed)
    }

    /// Requests in flight in the aperture, averaged: Finagle's `loadband/offered_load_ema`.
    #[must_use]
    pub fn in_flight(&self) -> f64 {
        f64::from_bits(self.0.in_flight.load(Ordering::Relaxed))
    }

    /// How often the load widened it, so far: Finagle's `loadband/widen`.
    #[must_use]
    pub fn widened(&self) -> u64 {
        self.0.widened.load(Ordering::Relaxed)
    }

    /// How often the load narrowed it, so far: Finagle's `loadband/narrow`.
    #[must_use]
    pub fn narrowed(&self) -> u64 {
        self.0.narrowed.load(Ordering::Relaxed)
    }
}

impl ApertureWidth {
    /// Both together.
    pub(crate) fn with(self, other: Self) -> Self {
        Self {
            logical: self.logical + other.logical,
            physical: self.physical + other.physical,
            in_flight: self.in_flight + other.in_flight,
            widened: self.widened + other.widened,
            narrowed: self.narrowed + other.narrowed,
            is_slice: self.is_slice || other.is_slice,
        }
    }
}

impl Strategy for Aperture {
    fn name(&self) -> &'static str {
        "aperture"
    }

    /// Picks of all, until it was made for a set.
    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        self.settings.p2c.pick(nodes, draw)
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        let band = Arc::new(Mutex::new(self.settings.band.clone()));
        let meters = [self.meter.clone(), ApertureMeter::default()];
        Some(Arc::new(Bound::new(&self.settings, meters, band, nodes)))
    }
}

impl Strategy for Bound {
    fn name(&self) -> &'static str {
        "aperture"
    }

    fn pick(&self, nodes: &dyn Candidates, draw: Draw) -> usize {
        if nodes.len() != self.layout.order.len() {
            return self.settings.p2c.pick(nodes, draw);
        }
        self.look(nodes, draw.random);
        let width = self.width.load(Ordering::Relaxed);
        let i = self.pick_within(nodes, width, draw, true);
        if nodes.status(i) == Status::Open {
            return i;
        }
        let wider = self.layout.cover(nodes, width);
        self.pick_within(nodes, wider, draw, false)
    }

    fn rebuild(&self, nodes: &dyn Candidates) -> Option<Arc<dyn Strategy>> {
        Some(Arc::new(Self::new(&self.settings, self.meters.clone(), Arc::clone(&self.band), nodes)))
    }

    fn aperture(&self) -> Option<ApertureWidth> {
        let [_, meter] = &self.meters;
        Some(ApertureWidth {
            logical: meter.logical(),
            physical: meter.physical(),
            in_flight: meter.in_flight(),
            widened: meter.widened(),
            narrowed: meter.narrowed(),
            is_slice: matches!(self.settings.order, Order::Ring(_)),
        })
    }

    fn uses(&self, nodes: &dyn Candidates, i: usize) -> bool {
        if nodes.len() == self.layout.order.len() {
            // Asked for each endpoint: not the time to count a wide one every time.
            self.look(nodes, 1);
        }
        let (_, members) = self.layout.slice(self.width.load(Ordering::Relaxed));
        self.layout.rank(i) < members
    }
}

impl Bound {
    fn new(settings: &Settings, meters: [ApertureMeter; 2], band: Arc<Mutex<Band>>, nodes: &dyn Candidates) -> Self {
        let layout = match settings.order {
            Order::Hash(seed) => Layout::by_hash(nodes, seed),
            Order::Ring(peer) => Layout::on_ring(nodes, peer),
        };
        let bound = Self {
            settings: settings.clone(),
            meters,
            layout,
            width: AtomicUsize::new(0),
            heaviest: Heaviest::default(),
            epoch: nodes.now(),
            next: AtomicU64::new(0),
            band,
            found: AtomicUsize::new(0),
        };
        // An update may wait for a look to end; a pick never does.
        let logical = bound.band.lock().unwrap_or_else(std::sync::PoisonError::into_inner).width();
        bound.cover(nodes, logical);
        bound.found.store(bound.in_flight(nodes), Ordering::Relaxed);
        bound
    }

    fn pick_within(&self, nodes: &dyn Candidates, width: usize, draw: Draw, quiet: bool) -> usize {
        let (slice, members) = self.layout.slice(width);
        let members = &self.layout.order[..members];
        let within = Within { all: nodes, members, slice, heaviest: &self.heaviest, quiet };
        within.outer(self.settings.p2c.pick(&within, draw))
    }

    /// Requests in flight in the aperture.
    fn in_flight(&self, nodes: &dyn Candidates) -> usize {
        let (_, members) = self.layout.slice(self.width.load(Ordering::Relaxed));
        let pending = self.layout.order[..members].iter().map(|i| nodes.pending(*i as usize));
        pending.fold(0, usize::saturating_add)
    }

    /// Counts what is in flight, and looks at the load, if it is time to.
    fn look(&self, nodes: &dyn Candidates, random: u64) {
        let since = nanos(nodes.now().saturating_duration_since(self.epoch));
        // Relaxed: who misses that another one has just looked finds the lock held, or no time passed.
        if since < self.next.load(Ordering::Relaxed) {
            // What these leave behind may stand for a long time, if callers come all at once. A wide aperture is not
            // counted for each of them, and needs not be: there, one of them is little.
            let one_in = (self.width.load(Ordering::Relaxed) / COUNTED).max(1) as u64;
            if random.is_multiple_of(one_in) {
                self.found.store(self.in_flight(nodes), Ordering::Relaxed);
            }
            return;
        }
        let mut band = match self.band.try_lock() {
            Ok(band) => band,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.next.store(since.saturating_add(nanos(self.settings.interval)), Ordering::Relaxed);
        let in_flight = self.in_flight(nodes);
        let held = self.found.swap(in_flight, Ordering::Relaxed);
        let change = band.observe(nodes.now(), held, in_flight);
        let (logical, average) = (band.width(), band.in_flight());
        drop(band);

        for ApertureMeter(counters) in &self.meters {
            counters.in_flight.store(average.to_bits(), Ordering::Relaxed);
            match change {
                Change::Wider => _ = counters.widened.fetch_add(1, Ordering::Relaxed),
                Change::Narrower => _ = counters.narrowed.fetch_add(1, Ordering::Relaxed),
                Change::None => {}
            }
        }
        self.cover(nodes, logical);
    }

    /// Makes it so wide that it has `logical` open endpoints.
    fn cover(&self, nodes: &dyn Candidates, logical: usize) {
        let logical = logical.min(nodes.len());
        let width = self.layout.cover(nodes, logical);
        self.width.store(width, Ordering::Relaxed);
        let (_, members) = self.layout.slice(width);
        let weights = self.layout.order[..members].iter().map(|i| nodes.weight(*i as usize));
        self.heaviest.set(weights.fold(0.0, f64::max));
        for ApertureMeter(counters) in &self.meters {
            counters.logical.store(logical, Ordering::Relaxed);
            counters.physical.store(members, Ordering::Relaxed);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
