//! The log broker: gathers the lines of a service's tasks from the agents that run them. Works at the leader.
//!
//! `subscription`: one ServiceLogs call; `feed`: what it asks of one node. Agents publish by a call of their own, whose
//! flow control holds them back when the client reads slowly.

mod broker;
mod feed;
mod subscription;

pub(crate) use broker::Broker;
