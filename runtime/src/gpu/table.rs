//! The table through which kernels reach experts: which slot holds which expert of which pool.
//!
//! It has two halves. The first tells where every expert is; the second shows only those that a *late* pass is to compute: experts that
//! came after the others of their step, or one wave of more than there are slots for.

use std::ops::Range;

use super::device::{Device, Upload};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::experts::{Catalogue, RecordId};

/// Marks an expert that is in no slot, as in `route`.
const MISSING: u32 = u32::MAX;
/// Marks an expert that computes nothing.
const NOTHING: u32 = u32::MAX - 1;

/// The table on the device and what it should be.
pub(super) struct Table {
    pub(super) buffer: wgpu::Buffer,
    /// `[half, pool, expert]`.
    entries: Vec<u32>,
    /// First entry of each pool in the first half.
    pub(super) pools: Vec<u32>,
    /// Entries of the experts that share a record.
    experts: Vec<Vec<u32>>,
    /// Entries of the second half that are not missing.
    shown: Vec<u32>,
    /// For each half, the entries that the device does not know yet.
    stale: [Range<usize>; 2],
}

impl Table {
    /// All experts missing.
    pub(super) fn new(device: &Device, bundle: &Bundle, catalogue: &Catalogue) -> Result<Table> {
        let mut experts = vec![Vec::new(); catalogue.records()];
        let mut pools = Vec::new();
        let mut n = 0u32;
        let mut idle = Vec::new();
        for (p, pool) in bundle.plan().pools.iter().enumerate() {
            pools.push(n);
            for e in 0..pool.experts() {
                match pool.record_of(e) {
                    Some(record) => experts[catalogue.id(p, record).index()].push(n),
                    None => idle.push(n),
                }
                n = n.checked_add(1).ok_or_else(|| Error::Device("there are too many experts".into()))?;
            }
        }
        let mut entries = vec![MISSING; n as usize * 2];
        idle.iter().for_each(|&e| entries[e as usize] = NOTHING);
        let buffer = device.storage("the table of experts", entries.len() as u64 * 4)?;
        let mut upload = Upload::new(device);
        upload.write(&buffer, 0, bytemuck::cast_slice(&entries))?;
        upload.finish()?;
        Ok(Table { buffer, entries, pools, experts, shown: Vec::new(), stale: [0..0, 0..0] })
    }

    /// First entry of the second half.
    pub(super) fn late(&self) -> u32 {
        u32::try_from(self.entries.len() / 2).unwrap_or(u32::MAX)
    }

    /// Notes where a record is; `None`: nowhere.
    pub(super) fn set(&mut self, record: RecordId, slot: Option<u32>) {
        for i in 0..self.experts[record.index()].len() {
            self.write(0, self.experts[record.index()][i], slot.unwrap_or(MISSING));
        }
    }

    /// No record is anywhere.
    pub(super) fn clear(&mut self) {
        self.entries.iter_mut().filter(|slot| **slot != NOTHING).for_each(|slot| *slot = MISSING);
        self.shown.clear();
        let half = self.entries.len() / 2;
        self.stale = [0..half, half..2 * half];
    }

    /// The second half shows these records and no others.
    pub(super) fn show(&mut self, records: impl Iterator<Item = RecordId>) {
        for entry in std::mem::take(&mut self.shown) {
            self.write(1, entry, MISSING);
        }
        for r in records {
            for i in 0..self.experts[r.index()].len() {
                let first = self.experts[r.index()][i];
                self.write(1, first + self.late(), self.entries[first as usize]);
                self.shown.push(first + self.late());
            }
        }
    }

    fn write(&mut self, half: usize, entry: u32, slot: u32) {
        let i = entry as usize;
        self.entries[i] = slot;
        let stale = &mut self.stale[half];
        *stale = if Range::is_empty(stale) { i..i + 1 } else { stale.start.min(i)..stale.end.max(i + 1) };
    }

    /// Tells the device; what is submitted from now on sees it.
    pub(super) fn flush(&mut self, device: &Device) {
        for stale in &mut self.stale {
            let range = std::mem::replace(stale, 0..0);
            if !Range::is_empty(&range) {
                device.queue.write_buffer(&self.buffer, range.start as u64 * 4, bytemuck::cast_slice(&self.entries[range]));
            }
        }
    }
}
