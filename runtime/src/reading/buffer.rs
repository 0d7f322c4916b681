//! Memory for one record: whole pages of its own, which the system has back at once when it is dropped.

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Bytes of one record.
#[derive(Debug)]
pub(crate) struct Buffer(MmapMut);

impl Buffer {
    /// Zeroed memory, which costs nothing until it is written.
    ///
    /// # Errors
    /// When the system has no room.
    pub(crate) fn new(bytes: usize) -> Result<Buffer> {
        let full = |e| Error::Device(format!("the system has no memory for an expert of {bytes} bytes: {e}; choose a smaller budget"));
        MmapMut::map_anon(bytes).map(Buffer).map_err(full)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
