//! Experts on the device: records in slots of equal size, and the table that says which slot holds which expert.
//!
//! Kernels reach experts only through the table, so where a record sits is nobody's business but this file's.

use super::device::{Device, Upload};
use super::weights::{VEC4, units};
use crate::bundle::Bundle;
use crate::error::{Error, Result};

/// Consecutive slots that one binding spans.
pub(super) struct SlotWindow {
    pub(super) buffer: wgpu::Buffer,
    pub(super) first: u32,
    pub(super) slots: u32,
}

/// The slots of one pool.
pub(super) struct Slab {
    pub(super) windows: Vec<SlotWindow>,
    /// Distance between slots, in vec4.
    pub(super) stride: u32,
    /// The pool's first entry of the table.
    pub(super) table: u32,
}

/// All pools.
pub(super) struct Slabs {
    pub(super) pools: Vec<Slab>,
    /// `[pool, expert]`: slot of each expert in its pool's slab.
    pub(super) slot_of: wgpu::Buffer,
}

impl Slabs {
    /// Uploads every record; expert `e` of a pool is in the slot of its record's number.
    pub(super) fn new(device: &Device, bundle: &Bundle) -> Result<Slabs> {
        let mut table: Vec<u32> = Vec::new();
        let mut pools = Vec::new();
        for (i, pool) in bundle.plan().pools.iter().enumerate() {
            let bytes = bundle.record_layout(i).bytes as u64;
            let per_window = u32::try_from(device.binding / bytes).unwrap_or(u32::MAX);
            if per_window == 0 {
                return Err(Error::Device(format!(
                    "an expert of {:?} takes {bytes} bytes, more than the {} that this GPU binds at once; choose a smaller codec",
                    pool.name, device.binding
                )));
            }
            let mut windows = Vec::new();
            for first in (0..pool.records).step_by(per_window as usize) {
                let slots = per_window.min(pool.records - first);
                let buffer = device.storage("experts", u64::from(slots) * bytes)?;
                let mut upload = Upload::new(device);
                for slot in 0..slots {
                    upload.write(&buffer, u64::from(slot) * bytes, bundle.record(i, first + slot))?;
                }
                upload.finish()?;
                windows.push(SlotWindow { buffer, first, slots });
            }
            let first = u32::try_from(table.len()).map_err(|_| Error::Device("there are too many experts".into()))?;
            pools.push(Slab { windows, stride: units(bytes)?, table: first });
            table.extend((0..pool.experts()).map(|e| pool.record_of(e)));
        }
        let slot_of = device.storage("the table of experts", table.len() as u64 * 4)?;
        let mut upload = Upload::new(device);
        upload.write(&slot_of, 0, bytemuck::cast_slice(&table))?;
        upload.finish()?;
        Ok(Slabs { pools, slot_of })
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        let windows = self.pools.iter().flat_map(|p| &p.windows);
        self.slot_of.size() + windows.map(|w| w.buffer.size()).sum::<u64>()
    }
}

/// Kernels address a slot in vec4, so records must be whole vec4.
const _: () = assert!((crate::bundle::BLOCK as u64).is_multiple_of(VEC4));
