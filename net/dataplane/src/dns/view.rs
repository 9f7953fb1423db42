//! What one sandbox sees, and the verdict on one query from it.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use super::{
    message::{self, Answer, Query, Transport, Unfit, code, kind},
    name,
    table::{Entry, Table},
};
use crate::SandboxDns;

/// The names of one network, shared by all its sandboxes: a change is seen by all of them at once.
pub(crate) type SharedTable = Rc<RefCell<Table>>;

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Ignore,
    /// Send what was written.
    Reply,
    /// Ask the upstream servers; the client takes answers up to this size.
    Forward {
        /// Largest answer in bytes.
        limit: usize,
    },
}

/// The names and servers of one sandbox.
#[derive(Debug)]
pub(crate) struct View {
    extra: Table,
    networks: Vec<SharedTable>,
    internal: bool,
    /// Servers for names that are not known here; empty if queries must not leave.
    pub(crate) upstreams: Vec<SocketAddr>,
}

impl View {
    /// The view of a sandbox on the tables of its networks, in its order.
    pub(crate) fn new(sandbox: &SandboxDns, networks: Vec<SharedTable>) -> Self {
        let upstreams = if sandbox.internal {
            Vec::new()
        } else {
            sandbox.upstreams.clone()
        };
        Self {
            extra: Table::new(&sandbox.extra_hosts),
            networks,
            internal: sandbox.internal,
            upstreams,
        }
    }

    /// Judges a packet; writes to `out` if the verdict is to reply.
    pub(crate) fn judge(&self, packet: &[u8], transport: Transport, out: &mut Vec<u8>) -> Verdict {
        let query = match Query::read(packet, transport) {
            Ok(query) => query,
            Err(Unfit::Silent) => return Verdict::Ignore,
            Err(Unfit::Code(code)) => {
                message::write_code(out, packet, code);
                return Verdict::Reply;
            }
        };
        if self.answer_name(&query, out) || self.answer_pointer(&query, out) {
            return Verdict::Reply;
        }
        if self.upstreams.is_empty() {
            // An isolated sandbox learns at once that a name does not exist. Refusing it instead would make musl's
            // resolver wait for its time-out. Without servers nobody knows whether it exists.
            let code = if self.internal {
                code::NO_NAME
            } else {
                code::SERVER_FAILURE
            };
            Answer::new(out, &query, code).finish();
            return Verdict::Reply;
        }
        Verdict::Forward { limit: query.limit }
    }

    fn answer_name(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let wire = query.name.wire();
        if let Some(entry) = self.extra.entry(wire) {
            write_addresses(query, entry, out);
            return true;
        }
        self.networks.iter().any(|network| {
            let table = network.borrow();
            let entry = table.entry(wire);
            entry
                .inspect(|entry| write_addresses(query, entry, out))
                .is_some()
        })
    }

    fn answer_pointer(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        if query.kind != kind::PTR && query.kind != kind::ANY {
            return false;
        }
        let Some(address) = name::reverse_address(query.name.wire()) else {
            return false;
        };
        let write = |table: &Table, out: &mut Vec<u8>| {
            let Some(target) = table.pointer(address) else {
                return false;
            };
            let mut answer = Answer::new(out, query, code::NO_ERROR);
            answer.pointer(target);
            answer.finish();
            true
        };
        write(&self.extra, out) || self.networks.iter().any(|network| write(&network.borrow(), out))
    }
}

/// Answers with the addresses of the type asked for. Other types of a known name have no data: asking others
/// would let them contradict us.
fn write_addresses(query: &Query<'_>, entry: &Entry, out: &mut Vec<u8>) {
    let mut answer = Answer::new(out, query, code::NO_ERROR);
    if matches!(query.kind, kind::A | kind::ANY) {
        // `all` stops at the first that does not fit.
        entry.v4().all(|address| answer.address(IpAddr::V4(address)));
    }
    if matches!(query.kind, kind::AAAA | kind::ANY) {
        entry.v6().all(|address| answer.address(IpAddr::V6(address)));
    }
    answer.finish();
}
