//! What the CPU and the GPU had to say to each other since a device was opened.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a device.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Buffers and bind groups made.
    pub(super) made: Count,
    /// Times the CPU waited for the GPU.
    pub(super) synchronisations: Count,
    /// Command buffers handed over.
    pub(super) submissions: Count,
    /// Bytes that came back.
    pub(super) bytes_returned: Count,
}
