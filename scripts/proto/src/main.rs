//! Generates the messages and services of namerd's gRPC interface, without `protoc`.
//!
//! `cargo run` checks that `linkerd-dtab/src/mesh/proto.rs` is what the `.proto` files say; with `PROTO_WRITE=1` it is
//! written.

use std::{env, error::Error, fs, path::Path, process::ExitCode};

const FILES: [&str; 5] = ["name.proto", "interpreter.proto", "resolver.proto", "delegator.proto", "codec.proto"];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linkerd-dtab");
    let current = crate_dir.join("src/mesh/proto.rs");
    let generated = generate(&crate_dir.join("proto"))?;
    if env::var_os("PROTO_WRITE").is_some() {
        fs::write(&current, generated)?;
        return Ok(ExitCode::SUCCESS);
    }
    if fs::read_to_string(&current)? == generated {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} is not what linkerd-dtab/proto says: `just proto` writes it", current.display());
    Ok(ExitCode::FAILURE)
}

fn generate(protos: &Path) -> Result<String, Box<dyn Error>> {
    let files = protox::compile(FILES, [protos])?;
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/proto");
    fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .codec_path("crate::mesh::codec::Codec")
        .build_transport(false)
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(files)?;
    Ok(fs::read_to_string(out.join("io.linkerd.mesh.rs"))?)
}
