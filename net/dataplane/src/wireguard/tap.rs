//! The network's end: a TAP in its hidden namespace, with offload, so that the kernel hands over up to 64 KiB at once.
//!
//! The device outlives the process (it is persistent): it is a port of the network's bridge, and a netd that was killed must find it there
//! again. It goes with its namespace, or when whoever made the namespace deletes it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::netns::Netns;

/// One queue of the device. The kernel keeps each flow on one queue.
pub(crate) struct Queue(SyncDevice);

impl std::fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Queue")
    }
}

/// Opens the device, making it if it is not there, sets it up and returns its queues.
pub(crate) fn open(netns: &Netns, name: &str, mtu: u16, queues: usize) -> io::Result<Vec<Queue>> {
    netns.inside(|| {
        let first = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .mtu(mtu)
            .enable(true)
            .with(|options| {
                options.offload(true).multi_queue(true);
            })
            .build_sync()?;
        first.persist()?;
        let mut all = vec![first];
        while all.len() < queues {
            let next = all[0].try_clone()?;
            all.push(next);
        }
        for queue in &all {
            queue.set_nonblocking(true)?;
        }
        Ok(all.into_iter().map(Queue).collect())
    })
}

impl Queue {
    /// Reads a frame with its vnet header; nothing if there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(self, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a frame with its vnet header. A frame that the kernel does not take is lost, as on any wire.
    pub(crate) fn write(&self, frame: &[u8]) {
        if let Err(error) = rustix::io::write(self, frame) {
            tracing::debug!(%error, length = frame.len(), "a frame was not taken");
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
