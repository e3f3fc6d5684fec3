//! namerd without its interfaces: who may see and change what, what is shared, and what is kept.

mod compose;
mod history;
mod limits;
mod plan;
mod revert;
mod roles;
mod support;
mod writes;
