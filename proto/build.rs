//! Compiles the `.proto` files with protox, a compiler in Rust, so that a fresh machine needs no protoc.
//! The descriptor set is kept for gRPC reflection.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 5] = [
    "rustygate/v1/resource.proto",
    "rustygate/v1/snapshot.proto",
    "rustygate/v1/config.proto",
    "rustygate/v1/fleet.proto",
    "rustygate/v1/token.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".rustygate.v1.Chunk")
        .bytes(".rustygate.v1.Change")
        // What has or may have a secret in it shows itself; see `debug`.
        .skip_debug([
            ".rustygate.v1.Secret",
            ".rustygate.v1.Password",
            ".rustygate.v1.Content",
            ".rustygate.v1.Document",
            ".rustygate.v1.Change",
            ".rustygate.v1.Chunk",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
