//! One conversation on the GPU: its caches, and batches of tokens through the recorded programs.

use std::sync::Arc;

use super::latch::Latch;
use super::lower::{Lower, Programs};
use super::memory::Memory;
use super::paged::Paged;
use super::pager::Pager;
use super::program::{Frame, Recording};
use super::scratch::{choice, masks, routes};
use super::slabs::Slabs;
use super::weights::padded_rows;
use super::{Experts, Loaded};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::model::{Best, Candidates, MAX_CANDIDATES, Output, Run, RunOptions, Want};
use crate::plan::Plan;
use crate::profile::{Recorder, StepNotes, Usage};
use crate::snapshot::{Reader, Writer};

pub(super) struct GpuRun {
    pub(super) model: Arc<Loaded>,
    /// The model's, or one that the session masked.
    pub(super) bundle: Arc<Bundle>,
    pub(super) options: RunOptions,
    /// Most records of each pool that one token uses at a step.
    routes: Vec<u32>,
    /// Frequencies and amplitude of each rotation, as the room for this conversation has it.
    rotations: Vec<(Vec<f32>, f32)>,
    pub(super) memory: Memory,
    pub(super) programs: Programs,
    /// The cut of slots that the programs are bound to.
    generation: u64,
    /// Steps that a token may run ahead of the CPU.
    pub(super) ahead: u32,
    pub(super) position: usize,
    /// What tokens use, where that is recorded.
    pub(super) recorder: Option<Recorder>,
    /// Notes of the batch under way, a routed step after the other.
    pub(super) notes: Vec<StepNotes>,
    /// Last, so that the memory is free when its bytes are.
    _reserved: Reserved,
}

/// Bytes of a budget that a run holds.
struct Reserved {
    model: Arc<Loaded>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Experts::Paged(paged) = &self.model.experts {
            paged.give_back(self.bytes);
        }
    }
}

impl GpuRun {
    pub(super) fn new(model: Arc<Loaded>, bundle: Arc<Bundle>, options: RunOptions) -> Result<GpuRun> {
        let (device, plan) = (&model.device, bundle.plan());
        // Buffers of a device that is lost are made without complaint.
        device.check()?;
        let bytes = Memory::bytes(device, plan, &model.weights, options)?;
        if let Experts::Paged(paged) = &model.experts {
            paged.reserve(device, bytes)?;
        }
        let reserved = Reserved { model: model.clone(), bytes };
        let memory = Memory::new(device, plan, &model.weights, options, &mut &*device)?;
        device.queue.write_buffer(
            &memory.choices,
            u64::from(choice(plan, plan.steps.len(), options.routing)) * 4,
            bytemuck::cast_slice(&masks(plan)),
        );
        let (programs, generation) = programs(&model, plan, &memory, options, None)?;
        let ahead = model.run_ahead.unwrap_or(1);
        let rotations = plan.rotations.iter().map(|r| r.for_context(options.context)).map(|(f, a)| (f.into_owned(), a)).collect();
        let routes = (0..plan.pools.len()).map(|pool| {
            let uses = plan.steps.iter().filter(|s| s.routed.as_ref().is_some_and(|r| r.pool as usize == pool));
            uses.map(|s| routes(plan, s, options.routing)).max().unwrap_or(0).min(plan.pools[pool].records)
        });
        let routes = routes.collect();
        Ok(GpuRun {
            options,
            routes,
            rotations,
            memory,
            programs,
            generation,
            ahead,
            position: 0,
            recorder: None,
            notes: Vec::new(),
            model: model.clone(),
            bundle: bundle.clone(),
            _reserved: reserved,
        })
    }

    /// Dispatches of one decoded token in each step, and in all with both ends.
    pub(super) fn dispatches(&self) -> (Vec<u32>, u32) {
        let frame = Frame { tokens: 1, outputs: 1, candidates: 1, ..Frame::default() };
        let steps: Vec<u32> = self.programs.steps.iter().map(|s| s.all().map(|p| p.count(&frame)).sum()).collect();
        let ends = [&self.programs.embed, &self.programs.head, &self.programs.best].map(|p| p.count(&frame));
        let total = steps.iter().chain(&ends).sum();
        (steps, total)
    }

    /// Binds the programs to the slots there are now.
    pub(super) fn rebind(&mut self, pager: &mut Pager) -> Result<()> {
        if pager.slabs(&self.model.device)?.1 != self.generation {
            (self.programs, self.generation) = programs(&self.model, self.bundle.plan(), &self.memory, self.options, Some(pager))?;
        }
        Ok(())
    }

    /// Uploads a batch's ids and the cosines and sines of its positions.
    fn feed(&self, tokens: &[u32], position: usize) {
        let (queue, scratch) = (&self.model.device.queue, &self.memory.scratch);
        queue.write_buffer(&scratch.tokens, 0, bytemuck::cast_slice(tokens));
        let mut first = 0;
        for (frequencies, amplitude) in &self.rotations {
            let turns = (position..position + tokens.len()).flat_map(|p| {
                frequencies.iter().map(move |f| {
                    let (sin, cos) = (p as f32 * f).sin_cos();
                    [cos * amplitude, sin * amplitude]
                })
            });
            let turns: Vec<[f32; 2]> = turns.collect();
            queue.write_buffer(&scratch.turns, first * 8, bytemuck::cast_slice(&turns));
            first += (frequencies.len() * scratch.batch as usize) as u64;
        }
    }

    /// Runs a batch and returns what `frame` asks for: logits, candidates or nothing.
    fn pass(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let model = self.model.clone();
        match &model.experts {
            Experts::Resident(_) => {
                let bytes = if self.recorder.is_some() { self.noted(frame)? } else { self.straight(frame)? };
                self.rows(frame, bytes)
            }
            Experts::Paged(paged) => {
                let mut pager = paged.lock();
                let done = self.paged(paged, &mut pager, frame).and_then(|bytes| self.rows(frame, bytes));
                if done.is_err() {
                    // Nothing of a failed pass may use slots any more when the next one fills them; a device that is lost says so again.
                    let _ = model.device.wait();
                }
                paged.note_pass(&pager);
                drop(pager);
                let caught_up = paged.catch_up(&model.device);
                let bytes = done?;
                caught_up.map(|()| bytes)
            }
        }
    }

    fn paged(&mut self, paged: &Paged, pager: &mut Pager, frame: &Frame) -> Result<Vec<u8>> {
        paged.apply(&self.model.device, pager)?;
        self.rebind(pager)?;
        pager.begin(&self.model.device)?;
        if self.recorder.is_some() {
            self.batch(paged, pager, frame)
        } else if frame.tokens == 1 && pager.holds(&self.routes) {
            self.token(paged, pager, frame)
        } else if pager.complete() {
            self.straight(frame)
        } else {
            self.batch(paged, pager, frame)
        }
    }

    /// All steps in one go: for experts that are all there.
    fn straight(&self, frame: &Frame) -> Result<Vec<u8>> {
        let mut recording = Recording::new(&self.model.device);
        // An error may have left it closed.
        recording.release();
        recording.run(std::iter::once(&self.programs.embed).chain(self.programs.steps.iter().flat_map(|s| s.all())), frame);
        let bytes = self.finish(&mut recording, frame);
        self.returned(&mut recording, bytes)
    }

    /// Where results begin in the buffer that brings them back.
    pub(super) fn head(&self) -> u64 {
        Latch::BYTES + self.memory.choices.size()
    }

    /// Records the head of what `frame` asks for, as many rows as it takes at a time; how many bytes of results that makes.
    pub(super) fn finish(&self, recording: &mut Recording<'_>, frame: &Frame) -> u64 {
        if frame.candidates == 0 {
            return self.some_rows(recording, frame, 0);
        }
        let bytes = 16 + 8 * u64::from(frame.candidates);
        recording.run([&self.programs.head, &self.programs.best], frame);
        recording.copy((&self.memory.scratch.best, 0), (&self.memory.results, self.head()), bytes);
        bytes
    }

    /// Records the head from row `first` of the logits that `frame` asks for, as many rows as it takes at a time.
    fn some_rows(&self, recording: &mut Recording<'_>, frame: &Frame, first: u32) -> u64 {
        let outputs = (frame.outputs - first).min(self.memory.scratch.outputs);
        let bytes = u64::from(outputs) * u64::from(padded_rows(self.bundle.plan().vocab)) * 4;
        if outputs > 0 {
            let tokens = frame.tokens - frame.outputs + first + outputs;
            recording.run([&self.programs.head], &Frame { tokens, outputs, ..frame.clone() });
            recording.copy((&self.memory.scratch.logits, 0), (&self.memory.results, self.head()), bytes);
        }
        bytes
    }

    /// All rows of logits, the first of which have come already.
    fn rows(&self, frame: &Frame, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let some = self.memory.scratch.outputs;
        for first in (some..frame.outputs).step_by(some as usize) {
            let mut recording = Recording::new(&self.model.device);
            let more = self.some_rows(&mut recording, frame, first);
            bytes.extend(self.returned(&mut recording, more)?);
        }
        Ok(bytes)
    }

    /// Submits, waits, and returns the results.
    pub(super) fn returned(&self, recording: &mut Recording<'_>, bytes: u64) -> Result<Vec<u8>> {
        let submission = recording.submit();
        if bytes == 0 {
            self.model.device.wait_for(submission)?;
            return Ok(Vec::new());
        }
        self.model.device.read(submission, &self.memory.results, self.head()..self.head() + bytes)
    }

    /// Runs a batch and returns its rows of logits, without padding.
    fn logits(&mut self, frame: &Frame) -> Result<Vec<f32>> {
        let bytes = self.pass(frame)?;
        let vocab = self.bundle.plan().vocab;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|w| f32::from_le_bytes(*w)).collect();
        let rows = values.chunks(padded_rows(vocab) as usize);
        let logits: Vec<f32> = rows.flat_map(|r| &r[..vocab as usize]).copied().collect();
        if logits.iter().all(|v| v.is_finite()) { Ok(logits) } else { Err(self.not_finite()) }
    }

    fn best(&mut self, mut frame: Frame, best: &Best) -> Result<Candidates> {
        let vocab = self.bundle.plan().vocab;
        let count = best.count.min(MAX_CANDIDATES).min(vocab as usize);
        frame.candidates = u32::try_from(count).unwrap_or(u32::MAX);
        frame.inverse_temperature = best.inverse_temperature;
        if best.penalty != 1.0 {
            frame.penalty = best.penalty;
            frame.penalised = u32::try_from(best.penalised.len()).unwrap_or(u32::MAX);
            self.model.device.queue.write_buffer(&self.memory.scratch.penalised, 0, bytemuck::cast_slice(&best.penalised));
        }
        let bytes = self.pass(&frame)?;
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
        for buffer in self.memory.scratch.activations() {
            encoder.clear_buffer(buffer, 0, None);
        }
        device.submit(encoder);
        Error::NotFinite("logits that are no numbers".into())
    }
}

/// Programs bound to the slots of `pager`, which is locked here when the caller has not, and the number of their cut.
fn programs(model: &Loaded, plan: &Plan, memory: &Memory, options: RunOptions, pager: Option<&mut Pager>) -> Result<(Programs, u64)> {
    let lower = |slabs: &Slabs| {
        let (device, weights) = (&model.device, &model.weights);
        let Memory { scratch, caches, choices, .. } = memory;
        Lower { device, plan, weights, slabs, scratch, caches, choices, options }.programs()
    };
    let of = |pager: &mut Pager| {
        let (slabs, generation) = pager.slabs(&model.device)?;
        Ok((lower(slabs)?, generation))
    };
    match (&model.experts, pager) {
        (Experts::Resident(slabs), _) => Ok((lower(slabs)?, 0)),
        (Experts::Paged(_), Some(pager)) => of(pager),
        (Experts::Paged(paged), None) => paged.with(&model.device, of),
    }
}

impl Run for GpuRun {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        self.position = 0;
        self.recorder.iter_mut().for_each(Recorder::interrupt);
    }

    fn save(&mut self, to: &mut Writer<'_>) -> Result<()> {
        self.save_caches(to)
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<bool> {
        self.reset();
        self.restore_caches(from)
    }

    fn record_use(&mut self) -> Result<()> {
        self.recorder.get_or_insert_with(|| Recorder::new(self.bundle.plan()));
        Ok(())
    }

    fn take_use(&mut self) -> Option<Usage> {
        Some(self.recorder.as_mut()?.take(self.bundle.plan()))
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let end = self.position + tokens.len();
        if (!self.options.slide && end > self.options.context) || u32::try_from(end).is_err() {
            return Err(Error::Context { needed: end, available: self.options.context });
        }
        let batch = self.memory.scratch.batch as usize;
        let mut output = Output::Nothing;
        let mut position = self.position;
        let mut noted = Vec::new();
        for part in tokens.chunks(batch) {
            self.notes.clear();
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
                    self.pass(&frame)?;
                }
            }
            noted.push(std::mem::take(&mut self.notes));
        }
        self.recorder.iter_mut().for_each(|recorder| noted.iter().for_each(|notes| recorder.add(notes)));
        self.position = end;
        Ok(output)
    }
}
