//! Orchestration, allocation and placement as one pure function.
