//! Compiles `proto/` with protox, so that no protoc is needed on the machine.

use std::path::PathBuf;

/// The codec hands out raw `Bytes`: a malformed message must cost only itself, and tonic ends a stream whose codec
/// returns an error.
const RAW_CODEC: &str = "crate::codec::RawCodec";

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script its folder in no other way")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["snakepit_bridge.proto", "snakepit/bridge.proto"], ["proto"])?;

    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;

    let method = |name: &str, route: &str| {
        tonic_build::manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type("bytes::Bytes")
            .output_type("bytes::Bytes")
            .codec_path(RAW_CODEC)
            .client_streaming()
            .server_streaming()
            .build()
    };
    let service = tonic_build::manual::Service::builder()
        .name("SnakepitBridge")
        .package("")
        .method(method("stream_telemetry", "StreamTelemetry"))
        .method(method("stream_telemetry_batches", "StreamTelemetryBatches"))
        .build();
    tonic_build::manual::Builder::new().compile(&[service]);
    Ok(())
}
