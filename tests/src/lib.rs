//! The harness of Pontoon's end-to-end tests, its demo and its benches: hosts on one machine.
//!
//! # Layout
//! - [`fleet`]: [`Fleet`], n hosts on a switch of their own; makes the cluster, removes everything at its end
//! - [`host`]: [`Host`], one daemon with its namespaces, folders and control group: kill, stop, start, unplug; [`commands`]: its command line
//! - [`wire`]: the namespaces, cables and the switch; [`capture`]: what crosses the switch, seen by tcpdump
//! - [`cgroups`]: a host's processes, found and ended by control group; [`footprint`]: what a host leaves on the machine
//! - [`killer`]: death of a daemon or shim at an exact step of its work
//! - [`process`]: a command's run with its output, deadline and checks; [`pty`]: a command on a terminal
//! - [`registry`]: Debian's registry on a host, and a user of it; [`gate`]: a door before it that stops transfers
//! - [`images`]: the images of the tests, made here; [`view`]: what listings say, as values
//! - [`wait`]: conditions with a deadline; [`programs`]: where the binaries under test are
//!
//! The main path of a test is [`with_fleet`]: hosts come up, the test's steps run, everything goes away again, and when a step
//! failed the daemons' logs are shown.

pub mod capture;
pub mod cgroups;
pub mod commands;
pub mod fleet;
pub mod footprint;
pub mod gate;
pub mod host;
pub mod images;
pub mod killer;
pub mod process;
pub mod programs;
pub mod pty;
pub mod registry;
pub mod view;
pub mod wait;
pub mod wire;

pub use fleet::{Fleet, with_fleet, with_host};
pub use host::Host;
pub use process::Output;
pub use wait::{LONG, SHORT, wait_until};
