//! Asks a second endpoint when the first takes long.
//!
//! One slow endpoint makes the tail of a service's latency, and a second request cuts it off ("The Tail at Scale", Dean and
//! Barroso, 2013). A second request for *everything* makes an outage. So there are bounds:
//!
//! | what | bound | then |
//! |---|---|---|
//! | second requests, whatever happens | a [share](HedgeLayer::share) of the requests of the last 10 s, 5 % by default | the first goes on alone, counted as `budget_exhausted` |
//! | together with the retries | their [budget](HedgeLayer::budget), if it is given | the same |
//! | for one request | one | - |
//! | after the request's [deadline](HedgeRequest::deadline), if that is known | none | the same, and no timer |
//! | memory of latencies | 4 KiB for a layer, 30 s to 60 s | what is older is forgotten |
//! | what is hedged | requests of which [`HedgeRequest::copy`] makes a copy | others are sent once |
//!
//! Put it below [`Retry`](crate::retry::Retry), so that each attempt may be hedged, and above whatever picks an endpoint. A
//! second request goes through all of the layers below, and so to another endpoint if the picker is told of the first one:
//! [`HedgeRequest`] says how.

mod latency;
mod layer;
mod policy;

pub use self::{
    latency::Percentile,
    layer::{Hedge, HedgeLayer, ResponseFuture, Stats},
    policy::{HedgeContext, HedgeDelay, HedgeRequest, InvalidHedge},
};
