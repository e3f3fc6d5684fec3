//! What the demonstrations run, for tests that run the same: a cluster in one process, its traffic, and a delivery.

pub mod cluster;
pub mod delivery;
pub mod load;
pub mod traffic;
