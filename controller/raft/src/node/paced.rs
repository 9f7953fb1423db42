//! A considerate writer for snapshots: it takes a part of a processor's time only. Used by `apply`.
//!
//! The state of a large cluster takes seconds to encode, all managers begin at about the same entry, and what they share (a host, a disk, a
//! processor with containers) would be slow for everybody meanwhile. A snapshot is needed soon, not now.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::Host;

/// Between two rests; a small state has none.
const STRETCH: usize = 256 << 10;
/// A rest is so many times as long as the stretch before took.
const REST: u32 = 2;
/// However slow the disk is.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// Passes bytes on and counts them.
pub(super) struct Paced<'a> {
    host: &'a Host,
    /// Once true there are no rests.
    hurry: &'a AtomicBool,
    inner: &'a mut dyn Write,
    written: u64,
    /// Bytes since the last rest.
    stretch: usize,
    begun: Instant,
}

impl<'a> Paced<'a> {
    pub(super) fn new(host: &'a Host, hurry: &'a AtomicBool, inner: &'a mut dyn Write) -> Self {
        Self {
            host,
            hurry,
            inner,
            written: 0,
            stretch: 0,
            begun: Instant::now(),
        }
    }

    /// Bytes that went through.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The rest that is due after `bytes` more, if the stretch so far took `time`.
    fn rest_after(&mut self, bytes: usize, time: Duration) -> Option<Duration> {
        self.stretch += bytes;
        if self.stretch < STRETCH {
            return None;
        }
        self.stretch = 0;
        let hurry = self.hurry.load(Ordering::Relaxed);
        (!hurry).then(|| (time * REST).min(LONGEST_REST))
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        if let Some(rest) = self.rest_after(written, self.begun.elapsed()) {
            self.host.rest(rest);
        }
        if self.stretch == 0 {
            self.begun = Instant::now();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_come_after_stretches_and_end_when_there_is_haste() {
        let (host, hurry, mut sink) = (Host::default(), AtomicBool::new(false), io::sink());
        let mut paced = Paced::new(&host, &hurry, &mut sink);
        let took = Duration::from_millis(3);
        assert_eq!(paced.rest_after(STRETCH - 1, took), None, "a small state");
        assert_eq!(paced.rest_after(1, took), Some(took * REST));
        assert_eq!(paced.rest_after(1, took), None);
        assert_eq!(
            paced.rest_after(STRETCH, Duration::from_secs(9)),
            Some(LONGEST_REST)
        );
        hurry.store(true, Ordering::Relaxed);
        assert_eq!(paced.rest_after(STRETCH, took), None);
    }

    #[test]
    fn all_bytes_go_through_and_are_counted() {
        let (host, hurry, mut out) = (Host::default(), AtomicBool::new(false), Vec::new());
        let mut paced = Paced::new(&host, &hurry, &mut out);
        let chunk: Vec<u8> = (0..=255).cycle().take(STRETCH / 2 + 1).collect();
        for _ in 0..5 {
            paced.write_all(&chunk).unwrap();
        }
        assert_eq!(paced.written(), 5 * chunk.len() as u64);
        assert_eq!(out, chunk.repeat(5));
    }
}
