//! Waits for changes in a folder by inotify(7).

use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

use crate::Result;
use crate::engine::make_dir;
use crate::error::IoContext;

/// A watch on one folder.
pub(super) struct Watch {
    // An inotify descriptor is read like a pipe; this is tokio's way to own and poll one without unsafe code.
    events: Receiver,
}

impl Watch {
    /// Begins to watch: nothing that is written from now on is missed. Makes the folder if it is not there yet.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        make_dir(dir)?;
        let make = || -> std::io::Result<Receiver> {
            let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
            inotify::add_watch(&descriptor, dir, changes)?;
            Receiver::from_owned_fd_unchecked(descriptor)
        };
        Ok(Self {
            events: make().context(|| format!("watch {}", dir.display()))?,
        })
    }

    /// Waits until something was written; all that happened until then counts as one.
    pub(super) async fn changed(&mut self) -> Result<()> {
        let wait = async {
            let mut buffer = [0u8; 4096];
            let mut any = false;
            loop {
                match self.events.try_read(&mut buffer) {
                    Ok(_) => any = true,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && any => return Ok(()),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.events.readable().await?
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        wait.await.context(|| "watch a log")
    }
}
