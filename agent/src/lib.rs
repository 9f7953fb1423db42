//! The node agent: session with the managers, worker, executor.
