//! How a record gets from the file into its slot.

use super::device::Device;
use crate::error::Result;

/// A record on its way into a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) pool: usize,
    pub(super) record: u32,
    pub(super) region: usize,
    /// First byte of the slot in its region.
    pub(super) at: u64,
    /// Of the record.
    pub(super) bytes: usize,
}

/// Memory for slots and a way into it.
pub(super) trait Backing: Send {
    /// Gives up all regions and makes new ones of these many bytes; nobody may be using the old ones.
    fn cut(&mut self, device: &Device, bytes: &[u64]) -> Result<()>;

    /// The regions.
    fn regions(&self) -> &[wgpu::Buffer];

    /// Brings records, their reads under way together; what is submitted from now on sees them. Nothing that is under way may use the slots.
    ///
    /// # Errors
    /// When one cannot be read; the slots' contents are undefined then.
    fn load(&mut self, device: &Device, loads: &[Load]) -> Result<()>;

    /// Bytes taken beside the regions.
    fn bytes(&self) -> u64;
}
