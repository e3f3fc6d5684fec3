//! Delegation tables: from a logical name to live endpoints, as Finagle and Linkerd 1.x bind them.

pub mod activity;
pub mod addr;
pub mod delegate;
pub mod dtab;
pub mod interpreter;
pub mod name;
pub mod namer;
pub mod parse;
pub mod path;
pub mod transformer;
pub mod tree;
#[cfg(feature = "fs")]
mod watch;

pub use activity::{Activity, Failure, Publisher, Snapshot, State};
pub use addr::{Addr, Endpoint};
pub use dtab::{Dentry, Dtab, Element, Prefix};
pub use interpreter::Interpreter;
pub use name::{Bound, Name};
pub use namer::Namer;
pub use parse::ParseError;
pub use path::{EmptyElement, Path, PathBuilder};
pub use transformer::Transformer;
pub use tree::{NameTree, Weighted};
