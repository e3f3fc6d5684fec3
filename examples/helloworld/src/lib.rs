//! Stand-ins for the hello, world and api servers that Linkerd's tutorials call.
//!
//! One server answers any request with its text, its address and whatever its target answered:
//!
//! ```text
//! client ──► hello ──► world        Hello (10.0.5.4) world (10.0.1.5)!!
//! ```
//!
//! The answers are those of the Go servers of the tutorials, byte for byte. The only thing that a server knows of a
//! mesh is what those knew: it copies `l5d-ctx-*` headers from a request to the call that it makes for it, and sends
//! that call through `http_proxy`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), helloworld::ServeError> {
//! use helloworld::{Options, serve};
//!
//! let local = || Options { addr: "127.0.0.1:0".into(), ..Options::default() };
//! let world = serve(Options { text: "world".into(), ..local() }).await?;
//! let hello = serve(Options { target: Some(world.addr().to_string()), ..local() }).await?;
//! println!("curl http://{}", hello.addr());
//! hello.shutdown().await;
//! world.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod app;
mod duration;
mod flags;
mod options;
mod proxy;
mod server;
mod target;

pub use flags::{Flags, Usage};
pub use options::{Options, ServeError};
pub use server::{Running, serve};
