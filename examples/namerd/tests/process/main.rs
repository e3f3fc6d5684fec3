//! The real program: its command line, its interfaces, its pages, its end. One binary, so that it is linked once.

mod api;
mod cli;
mod harness;
mod life;
mod meters;
mod tls;
