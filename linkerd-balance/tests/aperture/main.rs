//! Apertures and subsets through their public face, on endpoints made up here: no runtime, no clock.

mod band;
mod order;
mod picks;
mod subset;
mod world;
