//! The whole control plane in one thread: real managers on simulated machines, fake agents, clients, faults, oracles.
//!
//! # Layout
//! - [`run`]: one seed, from the first manager to the verdict. `world`: the machines; `storm`: what befalls them.
//! - `net`, `wire`: the network; `machine`: disk and clock of a manager; `manager`: the real manager on it;
//!   `members`: managers that are demoted and come back.
//! - `agent`, `client`, `operator`: those who talk to the managers; `shuffle`: loss, repetition, disorder of the log's messages.
//! - `oracle`, `invariants`, `rules`, `history`: what must hold at every moment, and whether one order explains all answers.
//! - `rng`, `trace`: the seed's chance, and the record by which two runs of it are compared.
//!
//! Everything runs in one current-thread runtime whose time is paused: it goes on when nobody has anything to do.

mod agent;
mod client;
mod history;
mod invariants;
mod machine;
mod manager;
mod members;
mod net;
mod operator;
mod oracle;
mod rng;
/// The same rules as for the reconciler alone, in its own tests.
#[allow(dead_code)] // Some of it is for those.
#[path = "../../../controller/reconcile/tests/sim/rules.rs"]
mod rules;
mod shuffle;
mod storm;
mod trace;
mod wire;
mod world;

use std::time::Duration;

pub use pontoon_proto::planted::Bug;
pub use storm::Faults;

use pontoon_proto::planted::plant;

/// Id of the simulated cluster.
pub(crate) const CLUSTER: &str = "cluster1";
/// Name of the network that all services use.
pub(crate) const NETWORK: &str = "net0";

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Print the trace.
    pub print: bool,
    /// Managers.
    pub managers: usize,
    /// Workers.
    pub workers: usize,
    /// Clients.
    pub clients: usize,
    /// How long the faults last, in simulated time.
    pub storm: Duration,
    /// Which faults.
    pub faults: Faults,
    /// A bug that is planted.
    pub planted: Option<Bug>,
}

impl Options {
    /// The usual size for a seed: three or five managers, ten to twenty workers.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            print: false,
            managers: if seed.is_multiple_of(4) { 5 } else { 3 },
            workers: 10 + (seed % 11) as usize,
            clients: 4,
            storm: Duration::from_secs(15),
            faults: Faults::ALL,
            planted: None,
        }
    }
}

/// How a simulation went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Hash and number of all events.
    pub trace: (u64, u64),
    /// What the source of chance would give next: it tells runs apart whose events look the same.
    pub chance: u64,
    /// Calls of clients that were answered.
    pub answered: usize,
    /// Version of the state at the end.
    pub version: u64,
    /// What an oracle found.
    pub complaint: Option<String>,
}

/// Simulates one seed.
pub fn run(options: &Options) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    if options.print {
        log();
    }
    // One that panicked in this thread has left its bug.
    plant(None);
    let report = runtime.block_on(world::simulate(options));
    plant(None);
    report
}

/// Shows what the managers log, from the level on that `LOG` names.
fn log() {
    let level = std::env::var("LOG").ok().and_then(|level| level.parse().ok());
    if let Some(level) = level {
        let level: tracing::Level = level;
        let subscriber = tracing_subscriber::fmt().with_max_level(level).without_time();
        // The second simulation of a process finds the first one's.
        let _ = subscriber.with_writer(std::io::stderr).try_init();
    }
}
