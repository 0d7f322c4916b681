//! Profiles on the GPU: what each step of a batch chose is brought back before its experts compute. Recording costs two round trips for each
//! step, and nothing when nobody records.

use super::program::{Frame, Recording};
use super::run::GpuRun;
use super::scratch::routes;
use crate::error::Result;
use crate::profile::StepNotes;

/// In `ids`: a route that leads nowhere.
const NOBODY: u32 = u32::MAX;

impl GpuRun {
    /// All steps, each noted: for experts that are all there. Returns what `frame` asks for.
    pub(super) fn noted(&mut self, frame: &Frame) -> Result<Vec<u8>> {
        let model = self.model.clone();
        let mut recording = Recording::new(&model.device);
        // An error may have left it closed.
        recording.release();
        recording.run([&self.programs.embed], frame);
        for number in 0..self.programs.steps.len() {
            recording.run([&self.programs.steps[number].before], frame);
            self.note(&mut recording, number, frame)?;
            recording.run(self.programs.steps[number].all().skip(1), frame);
        }
        let bytes = self.finish(&mut recording, frame);
        self.returned(&mut recording, bytes)
    }

    /// Notes what step `number` has just chosen, where somebody records and anything is routed.
    pub(super) fn note(&mut self, recording: &mut Recording<'_>, number: usize, frame: &Frame) -> Result<()> {
        let bundle = self.bundle.clone();
        let step = &bundle.plan().steps[number];
        if self.recorder.is_none() || step.routed.is_none() {
            return Ok(());
        }
        let routes = routes(bundle.plan(), step, self.options.routing) as usize;
        let bytes = (frame.tokens as usize * routes * 4) as u64;
        let mut back = |buffer: &wgpu::Buffer| -> Result<Vec<[u8; 4]>> {
            recording.copy((buffer, 0), (&self.memory.results, self.head()), bytes);
            Ok(self.returned(recording, bytes)?.as_chunks().0.to_vec())
        };
        let (ids, weights) = (back(&self.memory.scratch.ids)?, back(&self.memory.scratch.weights)?);
        let mut notes = StepNotes::default();
        for (ids, weights) in ids.chunks(routes).zip(weights.chunks(routes)) {
            let routes = ids.iter().zip(weights).map(|(id, weight)| (u32::from_le_bytes(*id), f32::from_le_bytes(*weight)));
            notes.routes.extend(routes.filter(|(id, _)| *id != NOBODY));
            notes.ends.push(notes.routes.len());
        }
        self.notes.push(notes);
        Ok(())
    }
}
