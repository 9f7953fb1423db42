//! What follows from a task's state alone: its order, its end, its name for people.
//!
//! ```text
//! NEW → PENDING → ASSIGNED → ACCEPTED → PREPARING → READY → STARTING → RUNNING ─┬→ COMPLETE
//!        allocator  scheduler  └──────────────── agent ────────────────┘         ├→ SHUTDOWN
//!                                 (any state may end in FAILED, REJECTED, ORPHANED) └→ FAILED
//! ```

use crate::v1::{NodeState, TaskState};

impl TaskState {
    /// True for a task that will never run again.
    pub fn is_terminal(self) -> bool {
        self > TaskState::Running
    }

    /// The state's name in lower case: `running`.
    pub fn name(self) -> &'static str {
        match self {
            TaskState::New => "new",
            TaskState::Pending => "pending",
            TaskState::Assigned => "assigned",
            TaskState::Accepted => "accepted",
            TaskState::Preparing => "preparing",
            TaskState::Ready => "ready",
            TaskState::Starting => "starting",
            TaskState::Running => "running",
            TaskState::Complete => "complete",
            TaskState::Shutdown => "shutdown",
            TaskState::Failed => "failed",
            TaskState::Rejected => "rejected",
            TaskState::Remove => "remove",
            TaskState::Orphaned => "orphaned",
        }
    }
}

impl NodeState {
    /// The state's name in lower case: `ready`.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Unknown => "unknown",
            NodeState::Down => "down",
            NodeState::Ready => "ready",
            NodeState::Disconnected => "disconnected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_is_the_last_state_that_is_not_terminal() {
        assert!(!TaskState::Running.is_terminal());
        assert!(TaskState::Complete.is_terminal());
        assert!(TaskState::Orphaned.is_terminal());
    }
}
