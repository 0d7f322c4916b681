//! One conversation on the GPU: its caches, and batches of tokens through the recorded programs.

use std::sync::Arc;

use super::Loaded;
use super::device::Device;
use super::lower::{Lower, Programs};
use super::program::{Frame, Recording};
use super::scratch::Scratch;
use super::weights::padded_rows;
use crate::error::{Error, Result};
use crate::model::{Best, Candidates, MAX_CANDIDATES, Output, Run, RunOptions, Want};
use crate::plan::{Attention, Plan, Work};

/// Keys and values of one state.
pub(super) struct Cache {
    /// `[capacity, KV, h padded to 4]` f32.
    pub(super) keys: wgpu::Buffer,
    /// The same shape; a stand-in when the state is tied.
    pub(super) values: wgpu::Buffer,
    /// Rows; position `p` is in row `p % capacity`.
    pub(super) capacity: u32,
    /// Keys a query sees at most.
    pub(super) window: u32,
}

impl Cache {
    fn new(device: &Device, plan: &Plan, a: &Attention, options: RunOptions, batch: u32) -> Result<Cache> {
        let state = &plan.states[a.state as usize];
        let context = u32::try_from(options.context).map_err(|_| Error::Input(format!("a context of {} is too long", options.context)))?;
        let window = a.window.unwrap_or(u32::MAX).min(if options.slide { context } else { u32::MAX });
        // A ring must keep what the first query of a batch sees while the last key of the batch is written.
        let ring = window.saturating_add(batch - 1);
        let capacity = if options.slide { ring } else { ring.min(context) };
        let row = u64::from(state.kv_heads) * u64::from(state.head_dim.next_multiple_of(4)) * 4;
        let bytes = u64::from(capacity) * row;
        if bytes > device.binding {
            let longest = (device.binding / row).saturating_sub(u64::from(batch));
            return Err(Error::Device(format!(
                "a context of {context} takes a cache of {bytes} bytes, more than this GPU binds at once; ask for at most {longest} tokens"
            )));
        }
        let values = if state.tied { 0 } else { bytes };
        Ok(Cache { keys: device.storage("keys", bytes)?, values: device.storage("values", values)?, capacity, window })
    }
}

pub(super) struct GpuRun {
    model: Arc<Loaded>,
    options: RunOptions,
    scratch: Scratch,
    programs: Programs,
    /// For candidates; logits get a buffer of their own when asked for.
    results: wgpu::Buffer,
    position: usize,
}

impl GpuRun {
    pub(super) fn new(model: Arc<Loaded>, options: RunOptions) -> Result<GpuRun> {
        if options.context == 0 {
            return Err(Error::Input("a context of 0 holds nothing".into()));
        }
        let (device, plan) = (&model.device, model.bundle.plan());
        let rows_of = |name: &str| Ok(u32::try_from(model.weights.layout(name)?.rows).unwrap_or(u32::MAX));
        let scratch = Scratch::new(device, plan, options.context, &rows_of)?;
        let mut caches: Vec<Option<Cache>> = plan.states.iter().map(|_| None).collect();
        for step in &plan.steps {
            if let Work::Attention(a) = &step.work {
                caches[a.state as usize] = Some(Cache::new(device, plan, a, options, scratch.batch)?);
            }
        }
        let unused = || Ok(Cache { keys: device.storage("keys", 0)?, values: device.storage("values", 0)?, capacity: 1, window: 1 });
        let caches = caches.into_iter().map(|c| c.map_or_else(unused, Ok)).collect::<Result<Vec<_>>>()?;
        let lower = Lower { device, plan, weights: &model.weights, slabs: &model.slabs, scratch: &scratch, caches: &caches, options };
        let programs = lower.programs()?;
        let results = device.readback(16 + 8 * MAX_CANDIDATES as u64)?;
        Ok(GpuRun { options, scratch, programs, results, position: 0, model: model.clone() })
    }

    /// Dispatches of one decoded token in each step, and in all with both ends.
    pub(super) fn dispatches(&self) -> (Vec<u32>, u32) {
        let frame = Frame { tokens: 1, outputs: 1, candidates: 1, ..Frame::default() };
        let steps: Vec<u32> = self.programs.steps.iter().map(|p| p.count(&frame)).collect();
        let ends = [&self.programs.embed, &self.programs.head, &self.programs.best].map(|p| p.count(&frame));
        let total = steps.iter().chain(&ends).sum();
        (steps, total)
    }

    /// Uploads a batch's ids and the cosines and sines of its positions.
    fn feed(&self, tokens: &[u32], position: usize) {
        let queue = &self.model.device.queue;
        queue.write_buffer(&self.scratch.tokens, 0, bytemuck::cast_slice(tokens));
        let mut first = 0;
        for r in &self.model.bundle.plan().rotations {
            let turns = (position..position + tokens.len()).flat_map(|p| {
                r.frequencies.iter().map(move |f| {
                    let (sin, cos) = (p as f32 * f).sin_cos();
                    [cos * r.amplitude, sin * r.amplitude]
                })
            });
            let turns: Vec<[f32; 2]> = turns.collect();
            queue.write_buffer(&self.scratch.turns, first * 8, bytemuck::cast_slice(&turns));
            first += (r.frequencies.len() * self.scratch.batch as usize) as u64;
        }
    }

    /// Records a batch up to its logits; `extra` follows.
    fn record(&self, frame: &Frame) -> Recording<'_> {
        let mut recording = Recording::new(&self.model.device);
        let body = std::iter::once(&self.programs.embed).chain(&self.programs.steps);
        recording.run(body.chain([&self.programs.head]), frame);
        recording
    }

    /// Submits a batch and returns its rows of logits, without padding.
    fn logits(&self, frame: &Frame) -> Result<Vec<f32>> {
        let (device, vocab) = (&self.model.device, self.model.bundle.plan().vocab);
        let bytes = u64::from(frame.outputs) * u64::from(padded_rows(vocab)) * 4;
        let results = device.readback(bytes)?;
        let mut recording = self.record(frame);
        recording.copy(&self.scratch.logits, &results, bytes);
        recording.submit();
        let bytes = device.read(&results, bytes)?;
        let values: &[f32] = bytemuck::try_cast_slice(&bytes).map_err(|e| Error::Device(format!("the GPU returned odd results: {e}")))?;
        let rows = values.chunks(padded_rows(vocab) as usize);
        let logits: Vec<f32> = rows.flat_map(|r| &r[..vocab as usize]).copied().collect();
        if logits.iter().all(|v| v.is_finite()) { Ok(logits) } else { Err(self.not_finite()) }
    }

    fn best(&self, mut frame: Frame, best: &Best) -> Result<Candidates> {
        let (device, vocab) = (&self.model.device, self.model.bundle.plan().vocab);
        let count = best.count.min(MAX_CANDIDATES).min(vocab as usize);
        frame.candidates = u32::try_from(count).unwrap_or(u32::MAX);
        frame.inverse_temperature = best.inverse_temperature;
        if best.penalty != 1.0 {
            frame.penalty = best.penalty;
            frame.penalised = u32::try_from(best.penalised.len()).unwrap_or(u32::MAX);
            device.queue.write_buffer(&self.scratch.penalised, 0, bytemuck::cast_slice(&best.penalised));
        }
        let mut recording = self.record(&frame);
        recording.run([&self.programs.best], &frame);
        let bytes = 16 + 8 * count as u64;
        recording.copy(&self.scratch.best, &self.results, bytes);
        recording.submit();
        let bytes = device.read(&self.results, bytes)?;
        let words: Vec<u32> = bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let (head, tokens) = words.split_at(4);
        let [top, sum, finite] = [head[0], head[1], head[2]].map(f32::from_bits);
        if finite != 1.0 {
            return Err(self.not_finite());
        }
        let tokens = tokens.as_chunks().0.iter().map(|&[value, id]| (id, f32::from_bits(value))).collect();
        Ok(Candidates { tokens, log_total: top + sum.ln() })
    }

    /// The error, after removing what could live on in padding and spoil later results.
    fn not_finite(&self) -> Error {
        let device = &self.model.device;
        let mut encoder = device.wgpu.create_command_encoder(&Default::default());
        for buffer in self.scratch.activations() {
            encoder.clear_buffer(buffer, 0, None);
        }
        device.queue.submit([encoder.finish()]);
        Error::NotFinite("logits that are no numbers".into())
    }
}

impl Run for GpuRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        self.position = 0;
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let end = self.position + tokens.len();
        if (!self.options.slide && end > self.options.context) || u32::try_from(end).is_err() {
            return Err(Error::Context { needed: end, available: self.options.context });
        }
        let batch = if matches!(want, Want::All) { self.scratch.outputs } else { self.scratch.batch } as usize;
        let mut output = Output::Nothing;
        let mut position = self.position;
        for part in tokens.chunks(batch) {
            self.feed(part, position);
            let to_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let mut frame = Frame { tokens: to_u32(part.len()), position: to_u32(position), ..Frame::default() };
            position += part.len();
            let last = position == end;
            match want {
                Want::All => {
                    frame.outputs = frame.tokens;
                    let rows = self.logits(&frame)?;
                    match &mut output {
                        Output::Logits(so_far) => so_far.extend(rows),
                        _ => output = Output::Logits(rows),
                    }
                }
                Want::Last if last => {
                    frame.outputs = 1;
                    output = Output::Logits(self.logits(&frame)?);
                }
                Want::Best(best) if last => {
                    frame.outputs = 1;
                    output = Output::Best(self.best(frame, best)?);
                }
                _ => {
                    self.record(&frame).submit();
                    self.model.device.wait()?;
                }
            }
        }
        self.position = end;
        Ok(output)
    }
}
