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
mod policy;
mod rng;
mod service;
mod set;
mod strategy;
mod weight;

pub use self::{
    accrual::Accrual,
    acquire::Acquire,
    balance::{Balance, EndpointInfo, NoEndpoints, Stats},
    breaker::{Breaker, BreakerCounters, Permit, Phase},
    health::{Health, Status},
    lease::{Lease, LeaseEnd},
    load::{LeastLoaded, Load, PeakEwma},
    member::Member,
    policy::Policy,
    service::{BalanceService, IsOk, ResponseFuture, Success},
    strategy::{
        Candidates, Draw, Heap, InvalidHashing, Maglev, P2c, Random, Ring, RoundRobin, StickyPrimary, Strategy,
    },
    weight::InvalidWeight,
};
