//! namerd's gRPC interface: what a real namerd answers, what a real Linkerd sends, and both of ours with each other.

#![cfg(all(feature = "mesh", feature = "fs"))]
#![allow(missing_docs)]

mod call;
mod cases;
mod follow;
mod limits;
mod recorded;
mod retold;
mod server;
mod silent;
mod source;

use std::{fmt::Write, fs, path::PathBuf};

use serde_json::Value;

/// One of the files beside the tests.
fn data(name: &str) -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/mesh").join(name);
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Bytes from a text that has two digits for each.
fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
