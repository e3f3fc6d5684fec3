//! What the compiler says to the commonest mistakes in composing: held, because who reads it has nothing else.
//!
//! The texts are those of one version of the compiler. With another one there is nothing to compare with, which is said
//! and passes. `TRYBUILD=overwrite cargo test -p linkerd-core --test ui` writes them anew; [`TOOLCHAIN`] is changed then.

use std::process::Command;

/// The compiler that the texts are of.
const TOOLCHAIN: &str = "rustc 1.95.";

#[test]
fn mistakes_are_told_apart() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    if !version.starts_with(TOOLCHAIN) && std::env::var_os("TRYBUILD").is_none() {
        eprintln!("SKIPPED: the texts are of {TOOLCHAIN}x, and this is {}", version.trim());
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
