#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod accrual;
mod acquire;
mod balance;
mod breaker;
mod connect;
mod ejections;
mod health;
mod info;
mod lease;
mod load;
mod member;
mod nodes;
mod panic;
mod pick;
mod policy;
mod probe;
mod rng;
mod service;
mod set;
mod slow_start;
mod stamp;
mod standing;
mod strategy;
mod sync;
mod tiers;
mod update;
mod weight;

pub use self::{
    accrual::Accrual,
    acquire::Acquire,
    balance::{Balance, InvalidSet},
    breaker::{
        Breaker, BreakerBuilder, BreakerCounters, BreakerEvent, BreakerFuture, BreakerLayer, BreakerService, Classify,
        Forced, NextProbe, Outcome, Permit, Phase, Reason, Rejection,
    },
    connect::{Connected, Connector, InvalidConnector, NotConnected},
    ejections::{EjectionCounts, EjectionLimits, Ejections, InvalidShare},
    health::{Health, Status},
    info::{EndpointInfo, Stats},
    lease::{Lease, LeaseEnd},
    load::{Hint, InvalidDecay, LeastLoaded, Load, Mark, Measure, PeakEwma},
    member::Member,
    panic::{Event, Panic, Unavailable},
    policy::{InvalidPanic, Policy},
    probe::{ActiveProbe, InvalidProbe, ProbeSettings},
    service::{BalanceService, IsOk, Judge, Keys, LOOK_AGAIN, MAX_UNREADY, MAX_WAITS, NoKey, ResponseFuture, Verdict},
    slow_start::{InvalidSlowStart, SlowStart},
    strategy::{
        Aperture, ApertureBuilder, ApertureMeter, ApertureWidth, Candidates, Draw, Heap, InvalidAperture,
        InvalidHashing, InvalidPeer, InvalidSubset, Maglev, P2c, Peer, Random, Ring, RoundRobin, StickyPrimary,
        Strategy, Subset,
    },
    tiers::{InvalidTiers, TierInfo, TierReason, Tiers},
    weight::InvalidWeight,
};
