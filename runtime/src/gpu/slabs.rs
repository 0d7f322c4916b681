//! Experts on the device: records in slots of equal size.
//!
//! Kernels reach experts only through the [table](super::table), so where a record sits is nobody's business but the store's.

use super::device::{Device, Upload};
use super::table::Table;
use super::weights::{VEC4, units};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::experts::Layout;

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
    /// `[half, pool, expert]`: slot of each expert in its pool's slab.
    pub(super) slot_of: wgpu::Buffer,
    /// First entry of the table's second half.
    pub(super) late: u32,
}

impl Slabs {
    /// Uploads every record; expert `e` of a pool is in the slot of its record's number.
    pub(super) fn resident(device: &Device, bundle: &Bundle) -> Result<Slabs> {
        let catalogue = bundle.catalogue();
        let mut table = Table::new(device, bundle, &catalogue)?;
        let mut pools = Vec::new();
        for (i, pool) in bundle.plan().pools.iter().enumerate() {
            let bytes = bundle.record_layout(i).bytes as u64;
            let per_window = u32::try_from(device.binding / bytes).unwrap_or(u32::MAX);
            if per_window == 0 {
                return Err(too_large(device, &pool.name, bytes));
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
            pools.push(Slab { windows, stride: units(bytes)?, table: table.pools[i] });
            (0..pool.records).for_each(|r| table.set(catalogue.id(i, r), Some(r)));
        }
        table.flush(device);
        Ok(Slabs { pools, slot_of: table.buffer.clone(), late: table.late() })
    }

    /// One window for each region, shared by its pools. `buffers` has as many slots as `layout` says for each.
    pub(super) fn paged(bundle: &Bundle, layout: &Layout, buffers: &[wgpu::Buffer], table: &Table) -> Result<Slabs> {
        let mut pools: Vec<Option<Slab>> = bundle.plan().pools.iter().map(|_| None).collect();
        for (region, buffer) in layout.regions.iter().zip(buffers) {
            for &pool in &region.pools {
                let window = SlotWindow { buffer: buffer.clone(), first: 0, slots: region.slots };
                pools[pool] = Some(Slab { windows: vec![window], stride: units(region.slot_bytes)?, table: table.pools[pool] });
            }
        }
        // A pool without records has no region, and no step uses it.
        let none = |table| Slab { windows: Vec::new(), stride: 0, table };
        let pools = pools.into_iter().zip(&table.pools).map(|(p, &table)| p.unwrap_or(none(table))).collect();
        Ok(Slabs { pools, slot_of: table.buffer.clone(), late: table.late() })
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        let windows = self.pools.iter().flat_map(|p| &p.windows);
        self.slot_of.size() + windows.map(|w| w.buffer.size()).sum::<u64>()
    }
}

/// The error for a record that is larger than a binding.
pub(super) fn too_large(device: &Device, pool: &str, bytes: u64) -> Error {
    Error::Device(format!(
        "an expert of {pool:?} takes {bytes} bytes, more than the {} that this GPU binds at once; choose a smaller codec",
        device.binding
    ))
}

/// Kernels address a slot in vec4, so records must be whole vec4.
const _: () = assert!((crate::bundle::BLOCK as u64).is_multiple_of(VEC4));
