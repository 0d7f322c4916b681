//! Slots in memory that the CPU and a Vulkan device share: a record's bytes land where kernels read them, without a copy.
//!
//! wgpu lends no mapped buffer to kernels, so the memory is allocated here, mapped for good, and handed to wgpu, which frees it.

use std::ptr::NonNull;
use std::sync::Arc;

use ash::vk;
use wgpu::hal::api::Vulkan;

use super::backing::{Backing, Load};
use super::device::{Device, failed};
use crate::error::{Error, Result};
use crate::reading::{Destination, Reader, Source};

/// Memory that both sides see, near the GPU, without flushes.
const SHARED: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::DEVICE_LOCAL.as_raw()
        | vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw()
        | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw(),
);

/// The regions and the reads that fill them.
pub(super) struct Imported {
    regions: Vec<wgpu::Buffer>,
    /// Where each is for the CPU.
    mapped: Vec<NonNull<u8>>,
    reader: Reader<Place>,
}

// SAFETY: the pointers lead to memory that every thread may use; only `load` makes anything of them, through `&mut self`.
unsafe impl Send for Imported {}

/// A slot's bytes. The buffer they are in lives as long.
struct Place {
    start: NonNull<u8>,
    bytes: usize,
    _region: wgpu::Buffer,
}

// SAFETY: a place is the only one that leads to its slot, as long as it lives.
unsafe impl Send for Place {}

impl Destination for Place {
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is inside a region that `_region` keeps; `load` makes one place for each slot, and no kernel that is under way
        // reads a slot while it is loaded. Any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Imported {
    /// `None` when the device has memory of its own, no such memory, or another interface than Vulkan.
    pub(super) fn new(device: &Device, source: &Arc<Source>) -> Result<Option<Imported>> {
        if device.report.discrete || shared_types(device) == 0 {
            return Ok(None);
        }
        Ok(Some(Imported { regions: Vec::new(), mapped: Vec::new(), reader: Reader::new(source)? }))
    }
}

impl Backing for Imported {
    fn cut(&mut self, device: &Device, bytes: &[u64]) -> Result<()> {
        self.mapped.clear();
        self.regions.drain(..).for_each(|r| r.destroy());
        for &bytes in bytes {
            let (region, mapped) = region(device, bytes.max(16))?;
            self.regions.push(region);
            self.mapped.push(mapped);
        }
        Ok(())
    }

    fn regions(&self) -> &[wgpu::Buffer] {
        &self.regions
    }

    fn load(&mut self, _: &Device, loads: &[Load]) -> Result<()> {
        for load in loads {
            let region = self.regions[load.region].clone();
            assert!(load.at + load.bytes as u64 <= region.size(), "a slot is inside its region");
            let at = usize::try_from(load.at).unwrap_or(usize::MAX);
            // SAFETY: inside the mapping, as just asserted.
            let start = unsafe { self.mapped[load.region].add(at) };
            self.reader.start(load.pool, load.record, Place { start, bytes: load.bytes, _region: region }, true);
        }
        // After an error too, all that was ordered comes back.
        let mut result = Ok(());
        while let Some(done) = self.reader.wait() {
            result = result.and(done.result);
        }
        result
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// Memory types that are shared, as bits; none where the device is not Vulkan's.
fn shared_types(device: &Device) -> u32 {
    // SAFETY: nothing is destroyed through the guard.
    let Some(hal) = (unsafe { device.wgpu.as_hal::<Vulkan>() }) else { return 0 };
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: the physical device is the instance's.
    let memory = unsafe { instance.get_physical_device_memory_properties(hal.raw_physical_device()) };
    let local = |h: &&vk::MemoryHeap| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let largest = memory.memory_heaps_as_slice().iter().filter(local).map(|h| h.size).max().unwrap_or(0);
    // A small window into the GPU's own memory is not what is meant.
    let shared = |t: &vk::MemoryType| t.property_flags.contains(SHARED) && memory.memory_heaps[t.heap_index as usize].size == largest;
    let types = memory.memory_types_as_slice().iter().enumerate();
    types.filter(|(_, t)| shared(t)).map(|(i, _)| 1 << i).sum()
}

/// A buffer for kernels in shared memory, and where the CPU finds it.
fn region(device: &Device, bytes: u64) -> Result<(wgpu::Buffer, NonNull<u8>)> {
    let types = shared_types(device);
    let lost = || Error::Device("the GPU has no memory that it shares with the CPU".into());
    let what = format!("make room of {bytes} bytes for experts");
    let told = |e: vk::Result| failed(&what, e);
    // SAFETY: the guard is dropped before this function ends, and nothing of wgpu's is destroyed through it.
    let hal = unsafe { device.wgpu.as_hal::<Vulkan>() }.ok_or_else(lost)?;
    let raw = hal.raw_device();
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER;
    let info = vk::BufferCreateInfo::default().size(bytes).usage(usage).sharing_mode(vk::SharingMode::EXCLUSIVE);
    // SAFETY: the description is complete, its size is not 0.
    let buffer = unsafe { raw.create_buffer(&info, None) }.map_err(told)?;
    // SAFETY: the buffer is new and nobody else knows it, nor the memory; each is freed once where a later step fails.
    let allocated = unsafe {
        let needs = raw.get_buffer_memory_requirements(buffer);
        let kind = (types & needs.memory_type_bits).trailing_zeros();
        if kind == u32::BITS {
            raw.destroy_buffer(buffer, None);
            return Err(lost());
        }
        let info = vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        raw.allocate_memory(&info, None).map(|memory| (memory, needs.size)).inspect_err(|_| raw.destroy_buffer(buffer, None))
    };
    let (memory, size) = allocated.map_err(told)?;
    // SAFETY: memory and buffer fit each other and belong to nobody else yet.
    let mapped = unsafe {
        raw.bind_buffer_memory(buffer, memory, 0)
            .and_then(|()| raw.map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()))
            .inspect_err(|_| {
                raw.destroy_buffer(buffer, None);
                raw.free_memory(memory, None);
            })
    };
    let mapped = NonNull::new(mapped.map_err(told)?.cast::<u8>()).ok_or_else(lost)?;
    // SAFETY: from here on wgpu owns buffer and memory and frees both, which ends the mapping; nobody maps or resizes it.
    let hal_buffer = unsafe { wgpu::hal::vulkan::Buffer::from_raw_managed(buffer, memory, 0, size) };
    drop(hal);
    let descriptor =
        wgpu::BufferDescriptor { label: Some("experts"), size: bytes, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false };
    // SAFETY: made by this device as described; kernels read only slots that have been filled.
    let buffer = unsafe { device.wgpu.create_buffer_from_hal::<Vulkan>(hal_buffer, &descriptor) };
    device.meter.made.add(1);
    Ok((buffer, mapped))
}
