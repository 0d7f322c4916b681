//! A run's caches on their way to the system's memory and back.

use std::ops::Range;

use super::cache::Cache;
use super::device::{Device, Upload};
use super::run::GpuRun;
use crate::error::{Error, Result};
use crate::snapshot::{Reader, Writer};

/// Bytes that cross at once.
const PIECE: u64 = 4 << 20;

impl Cache {
    /// Rows that `position` tokens of a conversation of at most `context` have written.
    fn written(&self, position: usize, context: usize) -> u64 {
        let position = position as u64;
        match &self.groups {
            Some(groups) if groups.rings => self.rows,
            // A row for each route of each token.
            Some(_) => self.rows / context as u64 * position,
            None => position.min(self.capacity.into()),
        }
    }
}

impl GpuRun {
    /// Of what it writes: rings depend on how many tokens are computed together.
    fn form(&self) -> String {
        format!("gpu 1 {}", self.memory.scratch.batch)
    }

    /// Buffers and what of them is kept, in the order of states.
    fn kept(&self, position: usize) -> Vec<(&wgpu::Buffer, Range<u64>)> {
        let mut kept = Vec::new();
        for (state, cache) in self.bundle.plan().states.iter().zip(&self.memory.caches) {
            let rows = 0..cache.keys.size() / cache.rows * cache.written(position, self.options.context);
            kept.push((&cache.keys, rows.clone()));
            if !state.tied {
                kept.push((&cache.values, rows));
            }
        }
        kept
    }

    pub(super) fn save_caches(&self, to: &mut Writer<'_>) -> Result<()> {
        let device = &self.model.device;
        to.form(&self.form())?;
        to.number(self.position as u64)?;
        for groups in self.memory.caches.iter().filter_map(|c| c.groups.as_ref()) {
            // The routes of the last batch are of no use to the next.
            for words in [0..groups.entries, groups.lists..words(&groups.index)] {
                download(device, &groups.index, u64::from(words.start) * 4..u64::from(words.end) * 4, to)?;
            }
        }
        self.kept(self.position).into_iter().try_for_each(|(buffer, range)| download(device, buffer, range, to))
    }

    /// # Errors
    /// When what was written is damaged. What is in the caches then does not matter at position 0.
    pub(super) fn restore_caches(&mut self, from: &mut Reader<'_>) -> Result<bool> {
        if !from.is(&self.form())? {
            return Ok(false);
        }
        let longest = if self.options.slide { u32::MAX as usize } else { self.options.context };
        let position = from.number(longest as u64)? as usize;
        let device = &self.model.device;
        let mut upload = Upload::new(device);
        for cache in &self.memory.caches {
            let Some(groups) = &cache.groups else { continue };
            let lengths = read_words(from, groups.entries)?;
            let lists = read_words(from, words(&groups.index) - groups.lists)?;
            // Kernels trust these numbers.
            let rows = cache.written(position, self.options.context);
            let longest = if groups.rings { position as u64 } else { rows.min(cache.capacity.into()) };
            let short = lengths.iter().all(|&n| u64::from(n) <= longest);
            let mut listed = lists.chunks(cache.capacity as usize).zip(&lengths).flat_map(|(list, &n)| &list[..list.len().min(n as usize)]);
            if !short || !(groups.rings || listed.all(|&row| u64::from(row) < rows)) {
                return Err(Error::Input("its rows of experts contradict each other".into()));
            }
            upload.write(&groups.index, 0, bytemuck::cast_slice(&lengths))?;
            upload.write(&groups.index, u64::from(groups.lists) * 4, bytemuck::cast_slice(&lists))?;
        }
        let mut piece = vec![0; PIECE as usize];
        for (buffer, range) in self.kept(position) {
            for at in range.clone().step_by(PIECE as usize) {
                let piece = &mut piece[..(range.end - at).min(PIECE) as usize];
                from.fill(piece)?;
                upload.write(buffer, at, piece)?;
            }
        }
        upload.finish()?;
        self.position = position;
        Ok(true)
    }
}

/// Elements of a buffer of u32.
fn words(buffer: &wgpu::Buffer) -> u32 {
    u32::try_from(buffer.size() / 4).unwrap_or(u32::MAX)
}

fn read_words(from: &mut Reader<'_>, count: u32) -> Result<Vec<u32>> {
    let mut words = vec![0; count as usize];
    from.fill(bytemuck::cast_slice_mut(&mut words))?;
    Ok(words)
}

/// Copies a range of a buffer to `to`, in pieces that take little memory.
fn download(device: &Device, buffer: &wgpu::Buffer, range: Range<u64>, to: &mut Writer<'_>) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let staging = device.readback((range.end - range.start).min(PIECE))?;
    for at in range.clone().step_by(PIECE as usize) {
        let bytes = (range.end - at).min(PIECE);
        let mut encoder = device.wgpu.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, at, &staging, 0, bytes);
        to.bytes(&device.read(device.submit(encoder), &staging, 0..bytes)?)?;
    }
    Ok(())
}
