#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod accrual;
mod acquire;
mod balance;
mod breaker;
mod ejections;
mod health;
mod lease;
mod load;
mod policy;
mod probe;
mod rng;
mod service;
mod set;
mod strategy;
mod sync;
mod weight;

pub use self::{
    accrual::Accrual,
    acquire::Acquire,
    balance::{Balance, EndpointInfo, NoEndpoints, Stats},
    breaker::{
        Breaker, BreakerBuilder, BreakerCounters, BreakerFuture, BreakerLayer, BreakerService, Classify, Forced,
        NextProbe, Outcome, Permit, Phase, Reason, Rejection,
    },
    ejections::{EjectionCounts, EjectionLimits, Ejections, InvalidShare},
    health::{Health, Status},
    lease::{Lease, LeaseEnd},
    load::{LeastLoaded, Load, PeakEwma},
    policy::Policy,
    probe::{ActiveProbe, InvalidProbe, ProbeSettings},
    service::{BalanceService, IsOk, ResponseFuture, Success},
    strategy::{Candidates, Draw, P2c, Strategy},
    weight::InvalidWeight,
};
