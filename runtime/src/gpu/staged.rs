//! Records through the host's memory and a ring of staging buffers that the GPU copies from: works everywhere.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::backing::{Backing, Load};
use super::device::{Device, failed};
use crate::error::{Error, Result};
use crate::reading::{Buffer, Reader, Source};

/// The ring, and the regions it fills.
pub(super) struct Staged {
    regions: Vec<wgpu::Buffer>,
    reader: Reader,
    /// Host memory that no read is using; as much as there is staging.
    spare: Vec<Buffer>,
    /// Staging buffers that are mapped, ready to be written.
    free: Vec<wgpu::Buffer>,
    returned: (Sender<wgpu::Buffer>, Receiver<wgpu::Buffer>),
    /// Of all staging buffers.
    bytes: u64,
}

impl Staged {
    /// `pieces` records of at most `piece` bytes may be on their way at a time.
    pub(super) fn new(device: &Device, source: &Arc<Source>, piece: u64, pieces: u64) -> Result<Staged> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some("staging"), size: piece, usage, mapped_at_creation: true };
        let make = |_| device.guarded("make room for staging", || device.wgpu.create_buffer(&descriptor));
        let free = (0..pieces).map(make).collect::<Result<Vec<_>>>()?;
        let size = usize::try_from(piece).unwrap_or(usize::MAX);
        let spare = (0..pieces).map(|_| Buffer::new(size)).collect::<Result<Vec<_>>>()?;
        let reader = Reader::new(source)?;
        Ok(Staged { regions: Vec::new(), reader, spare, free, returned: channel(), bytes: piece * pieces })
    }
}

/// Copies that are recorded and not handed over yet.
struct Copies {
    encoder: wgpu::CommandEncoder,
    /// Staging they read.
    used: Vec<wgpu::Buffer>,
}

impl Copies {
    fn new(device: &Device) -> Copies {
        Copies { encoder: device.wgpu.create_command_encoder(&Default::default()), used: Vec::new() }
    }

    /// Hands them over; staging comes back as soon as it is copied.
    fn submit(self, device: &Device, back: &Sender<wgpu::Buffer>) {
        device.submit(self.encoder);
        for piece in self.used {
            let (back, buffer) = (back.clone(), piece.clone());
            piece.map_async(wgpu::MapMode::Write, .., move |mapped| {
                if mapped.is_ok() {
                    // The receiver is gone only when the model is.
                    let _ = back.send(buffer);
                }
            });
        }
    }
}

impl Staged {
    /// Records the copy of a record that has been read.
    fn stage(&mut self, device: &Device, copies: &mut Copies, load: Load, bytes: &[u8]) -> Result<()> {
        self.free.extend(self.returned.1.try_iter());
        if self.free.is_empty() {
            std::mem::replace(copies, Copies::new(device)).submit(device, &self.returned.0);
            device.wait()?;
            self.free.extend(self.returned.1.try_iter());
        }
        let piece = self.free.pop().ok_or_else(|| Error::Device("the GPU did not give staging memory back".into()))?;
        let size = bytes.len() as u64;
        piece.get_mapped_range_mut(..size).map_err(|e| failed("stage an expert", e))?.copy_from_slice(bytes);
        piece.unmap();
        copies.encoder.copy_buffer_to_buffer(&piece, 0, &self.regions[load.region], load.at, size);
        copies.used.push(piece);
        Ok(())
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

    fn load(&mut self, device: &Device, loads: &[Load]) -> Result<()> {
        let mut copies = Copies::new(device);
        let mut result = Ok(());
        let mut rest = loads.iter();
        loop {
            while result.is_ok()
                && let Some(buffer) = self.spare.pop()
            {
                match rest.next() {
                    Some(load) => self.reader.start(load.pool, load.record, buffer, true),
                    None => {
                        self.spare.push(buffer);
                        break;
                    }
                }
            }
            // After an error too, all that was ordered comes back.
            let Some(done) = self.reader.wait() else { break };
            let load = loads.iter().find(|l| (l.pool, l.record) == (done.pool, done.record));
            if let (Ok(()), Some(&load)) = (&result, load) {
                result = done.result.and_then(|()| self.stage(device, &mut copies, load, &done.buffer.bytes()[..load.bytes]));
            }
            self.spare.push(done.buffer);
        }
        copies.submit(device, &self.returned.0);
        result
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
