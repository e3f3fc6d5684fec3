//! The configuration loader: files of Linkerd 1.x, and everything that can be wrong with one.
#![cfg(feature = "config")]

mod balancing;
mod classifiers;
mod errors;
mod examples;
mod laws;
mod recorded;
mod render;
mod retries;
mod timers;
