#![doc = include_str!("../README.md")]

pub mod activity;
pub mod addr;
pub mod delegate;
pub mod distribution;
pub mod dtab;
pub mod error;
pub mod header;
pub mod interpreter;
mod latest;
#[cfg(feature = "mesh")]
pub mod mesh;
// One side alone uses half of it.
#[cfg(any(feature = "namerd", feature = "remote"))]
#[cfg_attr(not(all(feature = "namerd", feature = "remote")), allow(dead_code, unreachable_pub, unused_imports))]
mod mux;
pub mod name;
pub mod namer;
#[cfg(feature = "namerd")]
pub mod namerd;
pub mod naming;
pub mod parse;
pub mod path;
pub mod path_matcher;
#[cfg(feature = "namerd")]
pub mod store;
pub mod switch;
pub mod transformer;
#[cfg(feature = "transport")]
pub mod transport;
pub mod tree;
#[cfg(feature = "fs")]
mod watch;

pub use activity::{Activity, Failure, Publisher, Snapshot, State};
pub use addr::{Addr, Endpoint};
pub use delegate::Delegation;
pub use distribution::Distribution;
pub use dtab::{Dentry, Dtab, Element, Prefix};
pub use error::BindError;
pub use interpreter::Interpreter;
pub use name::{Bound, Name};
pub use namer::Namer;
pub use parse::ParseError;
pub use path::{EmptyElement, Path, PathBuilder};
pub use path_matcher::{BadPattern, Captures, PathMatcher};
pub use transformer::Transformer;
pub use tree::{NameTree, Weighted};
