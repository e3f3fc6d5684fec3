#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod accrual;
mod acquire;
mod balance;
mod breaker;
mod health;
mod lease;
mod load;
mod member;
mod panic;
mod pick;
mod policy;
mod rng;
mod service;
mod set;
mod slow_start;
mod strategy;
mod tiers;
mod update;
mod weight;

pub use self::{
    accrual::Accrual,
    acquire::Acquire,
    balance::{Balance, EndpointInfo, InvalidSet, Stats},
    breaker::{Breaker, BreakerCounters, Permit, Phase},
    health::{Health, Status},
    lease::{Lease, LeaseEnd},
    load::{Hint, InvalidDecay, LeastLoaded, Load, Mark, Measure, PeakEwma},
    member::Member,
    panic::{Event, Panic, Unavailable},
    policy::{InvalidShare, Policy},
    service::{BalanceService, IsOk, ResponseFuture, Success},
    slow_start::{InvalidSlowStart, SlowStart},
    strategy::{Candidates, Draw, P2c, Strategy},
    tiers::{InvalidTiers, TierInfo, TierReason, Tiers},
    weight::InvalidWeight,
};
