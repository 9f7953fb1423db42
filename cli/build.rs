//! How the binary is linked. Relocations are packed (RELR): the binary is position independent, so each of the processes that a
//! container's start takes adds its own address to some 60,000 pointers; packed, their list is 20 KB instead of 1.5 MB that every
//! process would read and keep mapped. A release has no symbols.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // `strip` of the profile does not reach a package whose optimisation is set apart.
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
    // A C library that does not know the list would leave the pointers as they are, and the program would crash at its first step.
    let is_known = target("ENV") == "gnu" && target("ARCH") == "x86_64" && glibc() >= Some((2, 36));
    if is_known {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// This host's glibc, which is the one that is linked in.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?
        .stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
