//! The rules of the workspace, read from `cargo metadata`: which crate may use which, what the pure crates may not use, where
//! dependencies come from and under which licences.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crate → the crates of this workspace that it may use. A crate that is missing here fails the test, as does an edge.
const EDGES: &[(&str, &[&str])] = &[
    ("pontoon-proto", &[]),
    ("pontoon-ipam", &[]),
    ("pontoon-fuzz", &[]),
    ("pontoon-identity", &["proto"]),
    ("pontoon-store", &["proto"]),
    ("pontoon-reconcile", &["proto", "store", "ipam"]),
    ("pontoon-raft", &["proto", "store"]),
    ("pontoon-etcd", &["proto", "raft"]),
    (
        "pontoon-controller",
        &["proto", "store", "reconcile", "raft", "etcd", "identity", "ipam"],
    ),
    ("pontoon-dataplane", &["proto"]),
    ("pontoon-net", &["proto", "ipam", "dataplane"]),
    ("pontoon-runtime", &["proto"]),
    ("pontoon-image", &["proto"]),
    ("pontoon-build", &["image"]),
    ("pontoon-engine", &["proto", "runtime", "image", "net", "build"]),
    ("pontoon-agent", &["proto", "engine", "image", "net", "identity"]),
    (
        "pontoon",
        &[
            // Stack files are checked by the same rules before the first call.
            "reconcile",
            "proto",
            "agent",
            "build",
            "engine",
            "image",
            "runtime",
            "net",
            "dataplane",
            "identity",
            "controller",
            // Pure knowledge of specs, so that mistakes are told before anything is sent.
            "reconcile",
        ],
    ),
    (
        "pontoon-sim",
        &["proto", "store", "reconcile", "raft", "controller", "identity"],
    ),
    ("pontoon-tests", &["*"]),
];

/// Crates without a clock, randomness, files or threads: what they need of these comes in as an argument.
const PURE: &[&str] = &["pontoon-store", "pontoon-reconcile", "pontoon-ipam"];

/// What a pure crate must not name as a dependency.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-stream",
    "async-std",
    "rand",
    "getrandom",
    "uuid",
    "jiff",
    "chrono",
    "time",
    "rustix",
    "libc",
    "nix",
    "tempfile",
    "socket2",
    "mio",
    "hyper",
    "tonic",
    "reqwest",
];

/// Licences of dependencies, as `deny.toml` has them.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Crates that would bring a second TLS or crypto stack into the binary.
const BANNED: &[&str] = &["openssl-sys", "native-tls", "aws-lc-sys", "aws-lc-rs"];

fn metadata() -> Value {
    let compiler = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs where cargo does");
    let said = String::from_utf8_lossy(&compiler.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    // Without the filter, cargo wants the crates of every platform in the world.
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
        ])
        .arg(host.expect("rustc names its host"))
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"),
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The workspace's own packages, by name.
fn members(metadata: &Value) -> BTreeMap<&str, &Value> {
    let ids: BTreeSet<&str> = list(metadata, "workspace_members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    list(metadata, "packages")
        .iter()
        .filter(|package| ids.contains(text(package, "id")))
        .map(|package| (text(package, "name"), package))
        .collect()
}

/// What a package uses outside its tests.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    list(package, "dependencies")
        .iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .map(|dependency| text(dependency, "name"))
}

#[test]
fn crates_use_only_what_the_design_allows() {
    let metadata = metadata();
    let members = members(&metadata);
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, package) in &members {
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list of crates"));
            continue;
        };
        for used in dependencies(package).filter(|used| members.contains_key(used)) {
            let short = used.strip_prefix("pontoon-").unwrap_or(used);
            if !allowed.contains(&short) && !allowed.contains(&"*") {
                wrong.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_uses_the_tests() {
    let metadata = metadata();
    for (name, package) in members(&metadata) {
        assert!(
            !dependencies(package).any(|used| ["pontoon-tests", "pontoon-sim"].contains(&used)),
            "{name} uses the tests"
        );
    }
}

/// Bugs that the simulation plants are behind a feature that only it asks for.
#[test]
fn nobody_but_the_simulation_asks_for_planted_bugs() {
    let metadata = metadata();
    for (name, package) in members(&metadata) {
        let asks = list(package, "dependencies")
            .iter()
            .flat_map(|dependency| list(dependency, "features"))
            .any(|feature| feature == "planted-bugs");
        let default = list(&package["features"], "default")
            .iter()
            .any(|feature| text_of(feature).contains("planted-bugs"));
        assert_eq!(
            asks,
            name == "pontoon-sim",
            "{name} asks for bugs, or the simulation does not"
        );
        assert!(!default, "{name} has bugs by default");
    }
}

#[test]
fn pure_crates_use_nothing_impure() {
    let metadata = metadata();
    let members = members(&metadata);
    for name in PURE {
        let used: Vec<_> = dependencies(members[name])
            .filter(|used| IMPURE.contains(used))
            .collect();
        assert!(used.is_empty(), "{name} is pure but uses {used:?}");
    }
}

#[test]
fn dependencies_come_from_the_registry() {
    let metadata = metadata();
    for package in list(&metadata, "packages") {
        let source = package["source"].as_str();
        assert!(
            source.is_none_or(
                |source| source.starts_with("registry+https://github.com/rust-lang/crates.io-index")
            ),
            "{} comes from {source:?}",
            text(package, "name")
        );
    }
}

#[test]
fn one_tls_stack() {
    let metadata = metadata();
    // The resolve graph has what is really built with the features in use; packages lists optional ones too.
    let nodes = list(&metadata["resolve"], "nodes");
    let built: BTreeSet<&str> = nodes.iter().map(|node| text(node, "id")).collect();
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        assert!(
            !(BANNED.contains(&name) && built.contains(text(package, "id"))),
            "{name} is in the dependency graph"
        );
    }
}

#[test]
fn licences_are_on_the_list() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in list(&metadata, "packages") {
        let licence = text(package, "license");
        if !acceptable(licence) {
            wrong.push(format!("{}: {licence:?}", text(package, "name")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An SPDX expression of which we can meet a side of every OR: AND binds tighter, and nothing in use nests deeper than
/// one pair of parentheses around an OR.
fn acceptable(expression: &str) -> bool {
    let ok = |licence: &str| LICENCES.contains(&licence.trim().trim_matches(['(', ')']));
    let expression = expression.replace('/', " OR ");
    if expression.contains('(') {
        return expression.split(" AND ").all(|part| part.split(" OR ").any(ok));
    }
    expression.split(" OR ").any(|side| side.split(" AND ").all(ok))
}

#[test]
fn licence_expressions() {
    assert!(acceptable("MIT OR Apache-2.0"));
    assert!(acceptable("MIT/Apache-2.0"));
    assert!(acceptable("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(acceptable("GPL-3.0 OR MIT"));
    assert!(!acceptable("GPL-3.0 AND MIT"));
    assert!(!acceptable("(GPL-3.0 OR AGPL-3.0) AND MIT"));
    assert!(!acceptable(""));
}
