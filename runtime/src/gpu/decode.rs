//! One token under a budget: steps run ahead of the CPU until an expert is missing.
//!
//! The CPU hands over some steps, then looks: at the latch, and at what was chosen. If a step stalled, its other experts compute
//! nevertheless, and everything behind it does nothing. So the missing ones are brought, compute late, and the token goes on from there.

use super::latch::Latch;
use super::paged::Paged;
use super::pager::Pager;
use super::program::{Frame, Recording};
use super::run::GpuRun;
use super::scratch::{choice, routes};
use crate::error::Result;

impl GpuRun {
    /// Runs a single token and returns what `frame` asks for.
    pub(super) fn token(&mut self, paged: &Paged, pager: &mut Pager, frame: &Frame) -> Result<Vec<u8>> {
        let model = self.model.clone();
        let (device, steps) = (&model.device, self.programs.steps.len());
        let frame = Frame { latched: true, ..frame.clone() };
        let mut recording = Recording::new(device);
        // An error may have left it closed.
        recording.release();
        recording.run([&self.programs.embed], &frame);
        let mut at = 0;
        loop {
            if paged.is_pending() {
                recording.submit();
                paged.apply(device, pager)?;
                self.rebind(pager)?;
            }
            let end = self.window(at, pager.complete());
            // The CPU looks when the last choice is made: missing experts are read while those that are there compute.
            let cut = if end < steps { at..end - 1 } else { at..end };
            recording.run(self.programs.steps[cut.clone()].iter().flat_map(|s| s.all()), &frame);
            let last = self.programs.steps[cut.end..end].first();
            recording.run(last.map(|s| &s.before), &frame);
            let results = if end == steps { self.finish(&mut recording, &frame) } else { 0 };
            recording.copy((&device.latch.buffer, 0), (&self.memory.results, 0), Latch::BYTES);
            recording.copy((&self.memory.choices, 0), (&self.memory.results, Latch::BYTES), self.memory.choices.size());
            let chosen = recording.submit();
            if let Some(step) = last {
                recording.run(step.all().skip(1), &frame);
                recording.submit();
            }
            let mut back = device.read(chosen, &self.memory.results, 0..self.head() + results)?;
            let words: Vec<u32> = back[..self.head() as usize].as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
            let (latch, choices) = words.split_at(Latch::BYTES as usize / 4);
            let stalled = (latch[0] as usize).checked_sub(1);
            for step in at..stalled.unwrap_or(end) {
                if let Some(ids) = self.chosen(step, choices) {
                    pager.note(step, ids)?;
                }
            }
            match stalled {
                None if end == steps => {
                    self.adapt(None);
                    return Ok(back.split_off(self.head() as usize));
                }
                None => {
                    self.adapt(None);
                    at = end;
                }
                Some(step) => {
                    self.adapt(Some((at..step).filter(|&s| self.chosen(s, choices).is_some()).count()));
                    let ids = self.chosen(step, choices).unwrap_or_default();
                    let elsewhere = self.assist(pager, step, ids)?;
                    pager.fetch(device, step, ids, &elsewhere)?;
                    recording.release();
                    let program = &self.programs.steps[step];
                    recording.run(program.parts.first().map(|p| &p.experts), &Frame { late: true, ..frame.clone() });
                    recording.run(program.rest(), &frame);
                    at = step + 1;
                }
            }
        }
    }

    /// Which experts a step chose, if it chooses.
    fn chosen<'a>(&self, step: usize, choices: &'a [u32]) -> Option<&'a [u32]> {
        let plan = self.bundle.plan();
        plan.steps[step].routed.as_ref()?;
        let (routing, first) = (self.options.routing, choice(plan, step, self.options.routing) as usize);
        Some(&choices[first..first + routes(plan, &plan.steps[step], routing) as usize])
    }

    /// The end of the steps that are handed over next: so many that choose experts, and all when none can be missing.
    fn window(&self, at: usize, complete: bool) -> usize {
        let steps = &self.bundle.plan().steps;
        let ahead = match self.model.run_ahead {
            None if complete => usize::MAX,
            _ => self.ahead as usize,
        };
        let routed = (at..steps.len()).filter(|&i| steps[i].routed.is_some());
        routed
            .map(|i| i + 1)
            .nth(ahead.saturating_sub(1))
            .filter(|&end| steps[end..].iter().any(|s| s.routed.is_some()))
            .unwrap_or(steps.len())
    }

    /// Runs further ahead as long as nothing is missing, and about as far as the last stall when something is.
    fn adapt(&mut self, clean_steps: Option<usize>) {
        let steps = u32::try_from(self.programs.steps.len()).unwrap_or(u32::MAX);
        self.ahead = match (self.model.run_ahead, clean_steps) {
            (Some(fixed), _) => fixed,
            (None, None) => self.ahead.saturating_mul(2).min(steps.max(1)),
            (None, Some(clean)) => u32::try_from(clean).unwrap_or(u32::MAX).clamp(1, self.ahead),
        };
    }
}
