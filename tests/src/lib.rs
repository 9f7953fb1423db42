//! The Fleet of test hosts, suites and benches.
