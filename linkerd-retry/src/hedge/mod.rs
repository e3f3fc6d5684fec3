//! Asks a second endpoint when the first takes long.

mod latency;
mod layer;
mod policy;

pub use self::{
    latency::Percentile,
    layer::{Hedge, HedgeLayer, ResponseFuture, Stats},
    policy::{HedgeContext, HedgeDelay, HedgeRequest, InvalidHedge},
};
