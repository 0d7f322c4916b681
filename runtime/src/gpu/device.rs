//! One open device: buffers, pipelines, waiting, and turning what goes wrong into errors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use hotset_shaders::{Access, Buffers, Kernel, Lanes, Variant};

use super::adapter::{self, AdapterReport};
use super::latch::Latch;
use super::meter::Meter;
use super::{AdapterChoice, Arithmetic, GpuOptions};
use crate::error::{Error, Result};
use crate::loading::Loading;

/// Most bytes of parameters of a dispatch: what every Vulkan device has.
pub(super) const IMMEDIATES: u32 = 128;

/// An open device.
pub(super) struct Device {
    pub(super) wgpu: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) report: AdapterReport,
    /// Most bytes that one binding may span.
    pub(super) binding: u64,
    /// How lanes of a workgroup reduce.
    pub(super) lanes: Lanes,
    pub(super) latch: Latch,
    pub(super) meter: Meter,
    /// Whether it computes in half precision.
    pub(super) half: bool,
    /// How products with quantised weights are computed.
    pub(super) arithmetic: Arithmetic,
    /// Told of uploads; deaf once everything is there.
    pub(super) loading: Loading,
    pipelines: Mutex<HashMap<&'static str, Arc<Pipeline>>>,
    /// The first error that no scope caught.
    fault: Arc<Mutex<Option<String>>>,
}

/// A compiled kernel and the layout of its buffers.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    /// How it uses the latch.
    pub(super) latch: Access,
    layout: wgpu::BindGroupLayout,
}

/// Bytes that a buffer of `bytes` takes.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

pub(super) fn failed(what: &str, e: impl std::fmt::Display) -> Error {
    Error::Device(format!("the GPU failed to {what}: {e}"))
}

impl Device {
    pub(super) fn open(options: &GpuOptions) -> Result<Device> {
        let instance = adapter::instance();
        let adapter = adapter::choose(&instance, &options.adapter)?;
        let report = adapter::report(&adapter);
        let (features, limits) = (adapter.features(), adapter.limits());
        let binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(options.binding_limit.unwrap_or(u64::MAX));
        // A subgroup must hold a whole quad of rows, and a workgroup whole subgroups.
        let subgroups =
            options.subgroups && features.contains(wgpu::Features::SUBGROUP) && report.subgroup.0 >= 4 && report.subgroup.1 <= 64;
        let descriptor = wgpu::DeviceDescriptor {
            label: None,
            required_features: features & (wgpu::Features::IMMEDIATES | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16),
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| failed("start", e))?;
        let fault = Arc::new(Mutex::new(None));
        let note = |fault: &Arc<Mutex<Option<String>>>| {
            let fault = fault.clone();
            move |message: String| {
                fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
            }
        };
        let (uncaptured, lost) = (note(&fault), note(&fault));
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| uncaptured(e.to_string())));
        device.set_device_lost_callback(move |_, message| lost(format!("the device is lost: {message}")));
        let lanes = if subgroups { Lanes::Subgroup } else { Lanes::Workgroup };
        let latch = Latch::new(&device);
        let half = features.contains(wgpu::Features::SHADER_F16);
        Ok(Device {
            wgpu: device,
            queue,
            report,
            binding,
            lanes,
            latch,
            meter: Meter::default(),
            half,
            arithmetic: Arithmetic::Float,
            loading: Loading::default(),
            pipelines: Mutex::default(),
            fault,
        })
    }

    /// The error that happened since the device was opened, if any. A device that failed once stays failed.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(message) => Err(Error::Device(format!("the GPU failed: {message}"))),
        }
    }

    /// Runs `f`; what fails inside becomes an error that says what was tried.
    pub(super) fn guarded<T>(&self, what: &str, f: impl FnOnce() -> T) -> Result<T> {
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|f| self.wgpu.push_error_scope(f));
        let value = f();
        // Every scope must be popped, innermost first.
        let errors: Vec<_> = scopes.into_iter().rev().filter_map(|s| pollster::block_on(s.pop())).collect();
        match errors.first() {
            None => Ok(value),
            Some(e) => Err(failed(what, e)),
        }
    }

    /// A zeroed buffer for kernels.
    ///
    /// # Errors
    /// When it is larger than a binding may be or there is no room for it.
    pub(super) fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        if bytes > self.binding {
            return Err(Error::Device(format!("{label} takes {bytes} bytes, more than the {} that this GPU binds at once", self.binding)));
        }
        self.buffer(label, bytes, usage)
    }

    /// A buffer for results on their way to the CPU.
    pub(super) fn readback(&self, bytes: u64) -> Result<wgpu::Buffer> {
        self.buffer("results", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = padded(bytes);
        self.meter.made.add(1);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.guarded(&format!("make room of {size} bytes for {label}"), || self.wgpu.create_buffer(&descriptor))
    }

    /// Compiles a kernel, once.
    pub(super) fn pipeline<'a, B: Buffers<wgpu::BufferBinding<'a>>>(&self, kernel: &Kernel<B>) -> Result<Arc<Pipeline>> {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = pipelines.get(kernel.variant.name) {
            return Ok(p.clone());
        }
        let params = u32::try_from(size_of::<B::Params>()).unwrap_or(u32::MAX);
        let pipeline =
            self.guarded(&format!("compile {}", kernel.variant.name), || self.compile(kernel.variant, B::ACCESS, B::LATCH, params))?;
        Ok(pipelines.entry(kernel.variant.name).or_insert(Arc::new(pipeline)).clone())
    }

    fn compile(&self, variant: &Variant, access: &[Access], latch: Access, immediate_size: u32) -> Pipeline {
        let label = Some(variant.name);
        let entry = |(binding, a): (u32, &Access)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only: *a == Access::Read },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        let entries: Vec<_> = (0..).zip(access).map(entry).collect();
        let layout = self.wgpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = self.wgpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout), Some(self.latch.layout(latch))],
            immediate_size,
        });
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(variant.wgsl().into()) };
        let module = if cfg!(debug_assertions) {
            self.wgpu.create_shader_module(descriptor)
        } else {
            // SAFETY: these are our own kernels, whose loops end and whose indices stay inside their buffers for every plan that
            // passes validation; debug builds run the same tests with all checks on.
            unsafe { self.wgpu.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let pipeline = self.wgpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
            cache: None,
        });
        Pipeline { pipeline, latch, layout }
    }

    pub(super) fn bind<'a, B: Buffers<wgpu::BufferBinding<'a>>>(&self, pipeline: &Pipeline, buffers: B) -> Result<wgpu::BindGroup> {
        let entries: Vec<_> = (0..)
            .zip(buffers.list())
            .map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(b) })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
        self.meter.made.add(1);
        self.guarded("bind buffers", || self.wgpu.create_bind_group(&descriptor))
    }

    /// Hands commands to the GPU.
    pub(super) fn submit(&self, commands: wgpu::CommandEncoder) -> wgpu::SubmissionIndex {
        self.meter.submissions.add(1);
        self.queue.submit([commands.finish()])
    }

    /// Waits until everything submitted so far is done.
    pub(super) fn wait(&self) -> Result<()> {
        self.meter.synchronisations.add(1);
        self.wgpu.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| failed("finish its work", e))?;
        self.check()
    }

    /// Waits until that submission is done.
    pub(super) fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.meter.synchronisations.add(1);
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        self.wgpu.poll(wait).map_err(|e| failed("finish its work", e))?;
        self.check()
    }

    /// Waits for a submission, then copies a range of a readback buffer, which no later one writes.
    pub(super) fn read(&self, submission: wgpu::SubmissionIndex, buffer: &wgpu::Buffer, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = range.end - range.start;
        let slice = buffer.slice(range);
        let (sender, receiver) = std::sync::mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |r| {
            // The receiver lives until the end of this function, which waits for this call.
            let _ = sender.send(r);
        });
        self.wait_for(submission)?;
        receiver.try_recv().map_err(|e| failed("return results", e))?.map_err(|e| failed("return results", e))?;
        let data = slice.get_mapped_range().map_err(|e| failed("return results", e))?.to_vec();
        buffer.unmap();
        self.meter.bytes_returned.add(bytes);
        Ok(data)
    }
}

/// Copies files' bytes to buffers without letting the staging memory grow.
pub(super) struct Upload<'a> {
    device: &'a Device,
    pending: u64,
}

impl<'a> Upload<'a> {
    /// Staged bytes before waiting for the copies.
    const STAGING: u64 = 32 << 20;

    pub(super) fn new(device: &'a Device) -> Upload<'a> {
        Upload { device, pending: 0 }
    }

    pub(super) fn write(&mut self, to: &wgpu::Buffer, at: u64, data: &[u8]) -> Result<()> {
        let piece = usize::try_from(Self::STAGING / 2).unwrap_or(usize::MAX);
        for (i, part) in data.chunks(piece).enumerate() {
            self.device.queue.write_buffer(to, at + (i * piece) as u64, part);
            self.pending += part.len() as u64;
            self.device.loading.add(part.len() as u64)?;
            if self.pending >= Self::STAGING {
                self.finish()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        self.device.queue.submit([]);
        self.pending = 0;
        self.device.wait()
    }
}

impl GpuOptions {
    /// The defaults with this adapter.
    pub fn on(adapter: AdapterChoice) -> GpuOptions {
        GpuOptions { adapter, ..GpuOptions::default() }
    }
}
