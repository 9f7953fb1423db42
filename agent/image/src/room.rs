//! What a full disk is told: when images were last used, so that the longest unused go first, and what broken-off transfers have left.
//!
//! The time of use is the time of the configuration's blob: written with one system call, it survives restarts and goes with the
//! image. It is set by whoever makes a container of an image or brings it again. Called by the engine's collector.

use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::{ImageId, Result, store::ImageStore};

impl ImageStore {
    /// Notes that an image is in use now. That a time can't be written is no reason to fail: the image counts as older than it is.
    pub fn touch(&self, image: &ImageId) {
        let path = self.blobs.path(image);
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps {
            last_access: time(UTIME_OMIT),
            last_modification: time(UTIME_NOW),
        };
        if let Err(error) = rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()) {
            tracing::debug!(image = %image, %error, "cannot note that an image is used");
        }
    }

    /// When an image was last used, ns since the epoch; 0 when it is not there.
    pub fn last_used(&self, image: &ImageId) -> i64 {
        let stat = rustix::fs::stat(self.blobs.path(image));
        stat.map_or(0, |stat| {
            let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
            stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos)
        })
    }

    /// Deletes what transfers that broke off longer ago than this have left; gives the bytes that are free now.
    ///
    /// # Errors
    /// The folder can't be read, or a file not be deleted.
    pub fn drop_partial_blobs(&self, age: Duration) -> Result<u64> {
        self.transfers.sweep(age, &self.view().blobs())
    }
}
