//! A recorded model: dispatches whose buffers are bound once and whose parameters follow from the batch.

use std::sync::Arc;

use hotset_shaders::{Buffers, Kernel};

use super::device::{Device, IMMEDIATES, Pipeline};
use crate::error::Result;

/// What differs from one submission to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Tokens of the batch.
    pub(super) tokens: u32,
    /// Position of the first.
    pub(super) position: u32,
    /// How many of the last tokens get logits.
    pub(super) outputs: u32,
    /// Tokens to penalise, and by what.
    pub(super) penalised: u32,
    pub(super) penalty: f32,
    /// Candidates wanted.
    pub(super) candidates: u32,
    pub(super) inverse_temperature: f32,
    /// A single token whose experts may be missing: it stops where one is, and leaves word of what it chose.
    pub(super) latched: bool,
    /// Experts compute only what the table's second half shows.
    pub(super) late: bool,
}

/// Parameters and grid of one dispatch.
pub(super) struct Call {
    params: [u8; IMMEDIATES as usize],
    len: usize,
    grid: [u32; 3],
}

/// Parameters and grid for a batch; `None` when the dispatch is not needed.
type Plan = dyn Fn(&Frame) -> Option<Call> + Send + Sync;

struct Dispatch {
    pipeline: Arc<Pipeline>,
    buffers: wgpu::BindGroup,
    call: Box<Plan>,
}

/// Dispatches in order.
#[derive(Default)]
pub(super) struct Program {
    dispatches: Vec<Dispatch>,
}

impl Program {
    /// Adds a dispatch. `call` gives parameters and grid for a batch, or `None` when there is nothing to do.
    pub(super) fn push<'a, B>(
        &mut self,
        device: &Device,
        kernel: Kernel<B>,
        buffers: B,
        call: impl Fn(&Frame) -> Option<(B::Params, [u32; 3])> + Send + Sync + 'static,
    ) -> Result<()>
    where
        B: Buffers<wgpu::BufferBinding<'a>>,
    {
        let pipeline = device.pipeline(&kernel)?;
        let buffers = device.bind(&pipeline, buffers)?;
        let call = move |frame: &Frame| {
            let (params, grid) = call(frame)?;
            let bytes = bytemuck::bytes_of(&params);
            let mut call = Call { params: [0; IMMEDIATES as usize], len: bytes.len(), grid };
            call.params[..bytes.len()].copy_from_slice(bytes);
            Some(call)
        };
        self.dispatches.push(Dispatch { pipeline, buffers, call: Box::new(call) });
        Ok(())
    }

    /// How many dispatches a batch takes.
    pub(super) fn count(&self, frame: &Frame) -> u32 {
        (0..).zip(self.dispatches.iter().filter(|d| (d.call)(frame).is_some())).last().map_or(0, |(i, _)| i + 1)
    }
}

/// Submissions on their way: one compute pass each, of bounded length, because some drivers give up on long ones.
pub(super) struct Recording<'a> {
    device: &'a Device,
    encoder: wgpu::CommandEncoder,
    recorded: usize,
}

impl<'a> Recording<'a> {
    /// Dispatches of one submission.
    const LENGTH: usize = 100;

    pub(super) fn new(device: &'a Device) -> Recording<'a> {
        Recording { device, encoder: device.wgpu.create_command_encoder(&Default::default()), recorded: 0 }
    }

    /// Records those dispatches of `programs` that `frame` needs.
    pub(super) fn run<'p>(&mut self, programs: impl IntoIterator<Item = &'p Program>, frame: &Frame) {
        let mut due = programs.into_iter().flat_map(|p| &p.dispatches).filter_map(|d| Some((d, (d.call)(frame)?))).peekable();
        while due.peek().is_some() {
            if self.recorded >= Self::LENGTH {
                self.submit();
            }
            let mut pass = self.encoder.begin_compute_pass(&Default::default());
            let mut latch = None;
            for (d, call) in due.by_ref().take(Self::LENGTH - self.recorded) {
                pass.set_pipeline(&d.pipeline.pipeline);
                pass.set_bind_group(0, &d.buffers, &[]);
                if latch.replace(d.pipeline.latch) != Some(d.pipeline.latch) {
                    pass.set_bind_group(1, self.device.latch.group(d.pipeline.latch), &[]);
                }
                pass.set_immediates(0, &call.params[..call.len]);
                let [x, y, z] = call.grid;
                pass.dispatch_workgroups(x, y, z);
                self.recorded += 1;
            }
        }
    }

    /// Records a copy of `bytes` bytes, from and to a place in a buffer.
    pub(super) fn copy(&mut self, from: (&wgpu::Buffer, u64), to: (&wgpu::Buffer, u64), bytes: u64) {
        self.encoder.copy_buffer_to_buffer(from.0, from.1, to.0, to.1, bytes);
    }

    /// Records that the latch opens.
    pub(super) fn release(&mut self) {
        self.encoder.clear_buffer(&self.device.latch.buffer, 0, None);
    }

    /// Hands what is recorded to the device and goes on with an empty recording.
    pub(super) fn submit(&mut self) -> wgpu::SubmissionIndex {
        let next = self.device.wgpu.create_command_encoder(&Default::default());
        let done = std::mem::replace(&mut self.encoder, next);
        self.recorded = 0;
        self.device.submit(done)
    }
}
