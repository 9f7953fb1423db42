//! Encrypted datagrams on their way to the socket, kept so that runs of equal length to one peer go with one call (UDP_SEGMENT).
//!
//! One a worker. Filled by the engine, emptied by `socket`; the order towards each peer stays.

use std::{net::SocketAddr, ops::Range};

/// More segments the kernel does not take in one call (UDP_MAX_SEGMENTS of old kernels).
const SEGMENTS: usize = 64;
/// More bytes do not fit into one IP packet, which a run is until the device cuts it.
const RUN: usize = 65_000;
/// With more than this it is time to send.
const FULL: usize = 512 * 1024;

/// Datagrams to one address, all of one size but a shorter last one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    to: SocketAddr,
    range: Range<usize>,
    size: usize,
    count: usize,
    /// A shorter one ended it.
    closed: bool,
}

/// Datagrams in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
}

impl Outbox {
    /// Adds what `write` puts into a space of `longest` bytes, and returns its length; with 0, nothing is added.
    pub(crate) fn push(
        &mut self,
        to: SocketAddr,
        longest: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let start = self.used;
        if self.bytes.len() < start + longest {
            self.bytes.resize((start + longest).next_power_of_two(), 0);
        }
        let length = write(&mut self.bytes[start..start + longest]);
        if length == 0 {
            return 0;
        }
        self.used = start + length;
        match self.runs.last_mut() {
            Some(run) if run.takes(to, length) => {
                run.range.end = self.used;
                run.count += 1;
                run.closed = length < run.size;
            }
            _ => self.runs.push(Run {
                to,
                range: start..self.used,
                size: length,
                count: 1,
                closed: false,
            }),
        }
        length
    }

    /// Address, bytes and segment size of each run.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (SocketAddr, &[u8], usize)> {
        self.runs
            .iter()
            .map(|run| (run.to, &self.bytes[run.range.clone()], run.size))
    }

    /// Whether it should be sent before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.used > FULL
    }

    /// Forgets what was sent.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.runs.clear();
    }
}

impl Run {
    fn takes(&self, to: SocketAddr, length: usize) -> bool {
        !self.closed
            && self.to == to
            && length <= self.size
            && self.count < SEGMENTS
            && self.range.len() + length <= RUN
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs cut into segments as the kernel does are the datagrams.
        #[test]
        fn runs_are_the_datagrams(datagrams in prop::collection::vec((0u16..3, prop::sample::select(vec![0usize, 32, 100, 1400, 8900])), 0..200)) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (index, (peer, length)) in datagrams.iter().enumerate() {
                let to = SocketAddr::from(([10, 0, 0, 1], *peer));
                let fill = index as u8;
                outbox.push(to, 9000, |space| { space[..*length].fill(fill); *length });
                if *length > 0 {
                    expected.push((to, vec![fill; *length]));
                }
            }
            let mut seen = Vec::new();
            for (to, bytes, size) in outbox.runs() {
                prop_assert!(bytes.len() <= RUN && bytes.len().div_ceil(size) <= SEGMENTS);
                seen.extend(bytes.chunks(size).map(|datagram| (to, datagram.to_vec())));
            }
            prop_assert_eq!(seen, expected);
            outbox.clear();
            prop_assert_eq!(outbox.runs().count(), 0);
        }
    }

    #[test]
    fn a_run_of_full_segments_is_one() {
        let mut outbox = Outbox::default();
        let to = SocketAddr::from(([10, 0, 0, 1], 1));
        for length in [1400; 40].into_iter().chain([90, 1400]) {
            outbox.push(to, 1500, |_| length);
        }
        let runs: Vec<_> = outbox.runs().map(|(_, bytes, _)| bytes.len()).collect();
        assert_eq!(runs, [40 * 1400 + 90, 1400]);
    }
}
