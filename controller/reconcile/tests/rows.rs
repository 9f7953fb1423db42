//! Each behaviour of Swarm that its users rely on has cases, or a test elsewhere: the rows by the names that comments of `cases/*.txt` give
//! above the cases concerned (`// Row "restart policy": …`).
#![allow(clippy::unwrap_used)] // A test that can't go on fails.

use std::collections::BTreeSet;
use std::path::Path;

/// Tasks, restarts, history; updates and rollbacks; scheduling.
const ROWS: [&str; 22] = [
    "states",
    "desired state",
    "restart policy",
    "history",
    "healthcheck",
    "update defaults",
    "parallelism",
    "failure",
    "UpdateStatus",
    "previous spec",
    "force",
    "what a change recreates",
    "filters, in order",
    "then",
    "constraints",
    "constraint enforcement",
    "preferences",
    "generic resources",
    "why not placed",
    "global",
    "jobs",
    "no preemption, no rebalance",
];

/// Rows that are not the reconciler's alone: a file of the workspace, and a test in it.
const ELSEWHERE: [(&str, &str, &str); 6] = [
    ("healthcheck", "agent/tests/tasks/main.rs", "async fn sickness"),
    (
        "names, labels of containers",
        "agent/tests/tasks/main.rs",
        "com.docker.swarm.task.name",
    ),
    ("image digest", "controller/tests/images.rs", "#[tokio::test"),
    (
        "converge",
        "tests/tests/services/life.rs",
        "fn an_update_that_fails",
    ),
    (
        "generic resources",
        "tests/tests/services/placement.rs",
        "fn units_of_generic_resources",
    ),
    (
        "jobs",
        "tests/tests/services/jobs.rs",
        "fn a_job_runs_to_its_end_and_again",
    ),
];

#[test]
fn each_row_has_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut named = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut rows = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("// Row \"") {
                rows.push(rest.split_once('"').unwrap().0.to_owned());
            } else if line.starts_with("# ") {
                named.extend(rows.drain(..));
            } else if !line.starts_with("//") {
                assert!(rows.is_empty(), "no case follows on {rows:?}");
            }
        }
    }
    let rows: BTreeSet<String> = ROWS.map(str::to_owned).into();
    assert_eq!(named, rows);
}

#[test]
fn rows_that_are_tested_elsewhere_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (row, file, test) in ELSEWHERE {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(test), "{row}: {file} has no {test}");
    }
}
