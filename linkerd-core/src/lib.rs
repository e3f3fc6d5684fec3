#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub mod access_log;
#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod admin;
mod body;
mod cache;
mod classify;
mod client;
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub mod config;
pub mod context;
mod error;
pub mod http;
pub mod identify;
mod mesh;
#[cfg(feature = "namerd")]
#[cfg_attr(docsrs, doc(cfg(feature = "namerd")))]
pub mod namerd;
mod policy;
#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod proxy;
mod random;
pub mod span;
mod stack;
mod svc;
pub mod telemetry;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod testing;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls;
#[cfg(feature = "transport")]
#[cfg_attr(docsrs, doc(cfg(feature = "transport")))]
pub mod transport;

pub use body::{Body, IntoBody};
pub use classify::{GrpcClassifier, GrpcCode, H2Classifier, HttpClassifier, HttpClassify, Reset, StreamEnd};
pub use client::{Client, ResponseFuture, Typed};
pub use error::{AttemptLog, AttemptOutcome, Attempted, BoxError, Error, ErrorKind, Left, TimedOut, Timer};
pub use mesh::{
    BalancerState, BuildError, BuildProblem, CacheSettings, ClientState, EndpointState, Force, LimitState, Mesh,
    MeshBuilder, PathState,
};
pub use policy::{
    AccrualPolicy, ClientPolicy, HashOn, HedgePolicy, LimitPolicy, NewAccrual, Policies, ProbePolicy, ProbeQuestion,
    ServicePolicy, Uniform,
};
pub use svc::{HttpService, Svc, SvcFuture};

pub use linkerd_balance as balance;
pub use linkerd_dtab as dtab;
pub use linkerd_dtab::namer;
pub use linkerd_retry as retry;

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles and runs what `docs/compose.md` shows. Not in the package, where the page is not.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../docs/compose.md")]
struct Compose;

/// And what `docs/context.md` shows.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../docs/context.md")]
struct ContextPage;

/// And what `docs/tracing.md` shows.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../../docs/tracing.md")]
struct Tracing;
