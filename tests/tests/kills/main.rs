//! SIGKILL at every step: the daemon, a shim or a container in the making dies right before each change that an operation makes
//! outside its memory (system calls, counted by the `killer` program). After a new start nothing is leaked, nothing that ran before is lost, and the
//! operation can be done again.
//!
//! Each test walks through all steps of an [`walk::Operation`]. `PONTOON_FAULTS_STRIDE=7` takes every seventh only.

mod builds;
mod containers;
mod images;
mod networks;
mod scene;
mod start;
mod volumes;
mod walk;

use walk::operation;

/// A container that publishes a port. What is interrupted is nearly always about `box`.
const CREATED: &str = "create --name box --publish 8080:8080 busybox sleep 1000";
const RM: &str = "rm --force --volumes box";
