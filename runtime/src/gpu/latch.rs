//! The latch: a few bytes on the device that stop a token at the step whose expert is missing.
//!
//! `route` sets it; every later kernel looks at it first and returns at once. So nothing behind the stall has touched anything, and the
//! token goes on from there as soon as the expert has come.

use hotset_shaders::Access;

/// The buffer, bound as group 1 of every kernel.
pub(super) struct Latch {
    pub(super) buffer: wgpu::Buffer,
    layouts: [wgpu::BindGroupLayout; 2],
    groups: [wgpu::BindGroup; 2],
}

impl Latch {
    /// Four words; the first is 0, or the step that stalled plus 1.
    pub(super) const BYTES: u64 = 16;

    pub(super) fn new(device: &wgpu::Device) -> Latch {
        let label = Some("the latch");
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let buffer = device.create_buffer(&wgpu::BufferDescriptor { label, size: Latch::BYTES, usage, mapped_at_creation: false });
        let layouts = [true, false].map(|read_only| {
            let entry = wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &[entry] })
        });
        let groups = layouts.each_ref().map(|layout| {
            let entries = &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }];
            device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries })
        });
        Latch { buffer, layouts, groups }
    }

    pub(super) fn layout(&self, access: Access) -> &wgpu::BindGroupLayout {
        &self.layouts[usize::from(access == Access::ReadWrite)]
    }

    pub(super) fn group(&self, access: Access) -> &wgpu::BindGroup {
        &self.groups[usize::from(access == Access::ReadWrite)]
    }
}
