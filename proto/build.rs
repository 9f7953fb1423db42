//! Generates the messages and services from `api/v1/*.proto`; the file descriptor set feeds server reflection.
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("api/v1")?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "proto"))
        .collect();
    files.sort();
    println!("cargo:rerun-if-changed=api/v1");
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("OUT_DIR is not set"))?;
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .bytes(".")
        // Written by hand, without what is secret: it must not get into a log by way of a message that has it.
        .skip_debug([".pontoon.v1.RegistryAuth"])
        .file_descriptor_set_path(Path::new(&out).join("pontoon.bin"))
        .compile_protos(&files, &[PathBuf::from("api/v1")])
}
