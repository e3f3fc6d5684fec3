//! namerd without its interfaces: who may see and change what, what is shared, and what is kept.

mod limits;
mod support;
