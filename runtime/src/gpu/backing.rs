//! How a record gets from the file into its slot.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::device::{Device, failed};
use crate::bundle::Bundle;
use crate::error::{Error, Result};

/// A record on its way into a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) pool: usize,
    pub(super) record: u32,
    pub(super) region: usize,
    /// First byte of the slot in its region.
    pub(super) at: u64,
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
    fn load(&mut self, device: &Device, bundle: &Bundle, loads: &[Load]) -> Result<()>;

    /// Bytes taken beside the regions.
    fn bytes(&self) -> u64;
}

/// Through a ring of buffers that the CPU writes and the GPU copies from: works everywhere.
pub(super) struct Staged {
    regions: Vec<wgpu::Buffer>,
    /// Mapped, ready to be written.
    free: Vec<wgpu::Buffer>,
    returned: (Sender<wgpu::Buffer>, Receiver<wgpu::Buffer>),
    /// Bytes of each, and how many there are.
    piece: u64,
    pieces: u64,
}

impl Staged {
    /// `pieces` buffers for records of at most `piece` bytes.
    pub(super) fn new(device: &Device, piece: u64, pieces: u64) -> Result<Staged> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some("staging"), size: piece, usage, mapped_at_creation: true };
        let make = |_| device.guarded("make room for staging", || device.wgpu.create_buffer(&descriptor));
        let free = (0..pieces).map(make).collect::<Result<Vec<_>>>()?;
        Ok(Staged { regions: Vec::new(), free, returned: channel(), piece, pieces })
    }

    /// A buffer that can be written, once the GPU has copied what it held before.
    fn piece(&mut self, device: &Device) -> Result<wgpu::Buffer> {
        self.free.extend(self.returned.1.try_iter());
        if self.free.is_empty() {
            device.wait()?;
            self.free.extend(self.returned.1.try_iter());
        }
        self.free.pop().ok_or_else(|| Error::Device("the GPU did not give staging memory back".into()))
    }
}

impl Backing for Staged {
    fn cut(&mut self, device: &Device, bytes: &[u64]) -> Result<()> {
        self.regions.drain(..).for_each(|r| r.destroy());
        for &bytes in bytes {
            self.regions.push(device.storage("experts", bytes)?);
        }
        Ok(())
    }

    fn regions(&self) -> &[wgpu::Buffer] {
        &self.regions
    }

    fn load(&mut self, device: &Device, bundle: &Bundle, loads: &[Load]) -> Result<()> {
        for some in loads.chunks(usize::try_from(self.pieces).unwrap_or(usize::MAX)) {
            let mut encoder = device.wgpu.create_command_encoder(&Default::default());
            let mut used = Vec::new();
            for load in some {
                let bytes = bundle.record(load.pool, load.record);
                let size = bytes.len() as u64;
                let piece = self.piece(device)?;
                piece.get_mapped_range_mut(..size).map_err(|e| failed("stage an expert", e))?.copy_from_slice(bytes);
                piece.unmap();
                encoder.copy_buffer_to_buffer(&piece, 0, &self.regions[load.region], load.at, size);
                used.push(piece);
            }
            device.submit(encoder);
            for piece in used {
                let (back, buffer) = (self.returned.0.clone(), piece.clone());
                piece.map_async(wgpu::MapMode::Write, .., move |mapped| {
                    if mapped.is_ok() {
                        // The receiver is gone only when the model is.
                        let _ = back.send(buffer);
                    }
                });
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.piece * self.pieces
    }
}
