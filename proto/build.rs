//! Compiles the contracts with protox, so that no `protoc` has to be installed, and keeps the descriptors for gRPC
//! reflection.

use prost::Message;

const FILES: [&str; 4] =
    ["odradek/metadata.proto", "odradek/broker.proto", "odradek/raft.proto", "odradek/admin.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".odradek.raft.v1")
        .bytes(".odradek.broker.v1.ForwardRequest")
        .bytes(".odradek.broker.v1.ForwardResponse")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=odradek");
    Ok(())
}
