//! The simulator: real strategies, loads and breakers in a world of virtual time, with no runtime and no wall clock.
//!
//! A world (`model`) is endpoints that serve, queue and break, and clients that balance; the `engine` plays it event by
//! event. Everything is drawn from one seed, so a run can be repeated. `invariants` hold in every world, `scenarios`
//! are ten worlds with names, whose table and plots are `docs/balancing.md`.
//!
//! A failing seed names itself and tells its world; `SIM_SEED=17 cargo test -p linkerd-balance --test sim NAME` runs it
//! alone, `SIM_WORLDS=100000` so many in place of a thousand.

mod engine;
mod invariants;
mod model;
mod policies;
mod report;
mod rng;
mod scenarios;
mod server;
mod svg;
mod tally;
mod topology;
mod watch;
