//! A batch under a budget: each step's choice comes back, and its experts compute in waves as slots allow.
//!
//! Routes have rows of their own, so it does not matter in which wave an expert comes: the outcome is the same, bit for bit.

use std::time::Instant;

use super::paged::Paged;
use super::pager::Pager;
use super::program::{Frame, Recording};
use super::run::GpuRun;
use super::scratch::routes;
use crate::error::{Error, Result};
use crate::experts::RecordId;

impl GpuRun {
    /// Runs a batch and returns what `frame` asks for.
    pub(super) fn batch(&mut self, paged: &Paged, pager: &mut Pager, frame: &Frame) -> Result<Vec<u8>> {
        let model = self.model.clone();
        let bundle = self.bundle.clone();
        let plan = bundle.plan();
        let mut recording = Recording::new(&model.device);
        recording.release();
        recording.run([&self.programs.embed], frame);
        for (number, step) in plan.steps.iter().enumerate() {
            if paged.is_pending() {
                recording.submit();
                paged.apply(&model.device, pager)?;
                self.rebind(pager)?;
            }
            recording.run([&self.programs.steps[number].before], frame);
            if step.routed.is_none() {
                continue;
            }
            self.note(&mut recording, number, frame)?;
            let ids = u64::from(frame.tokens) * u64::from(routes(plan, step, self.options.routing)) * 4;
            recording.copy((&self.memory.scratch.ids, 0), (&self.memory.results, self.head()), ids);
            let ids = self.returned(&mut recording, ids)?;
            let ids: Vec<u32> = ids.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
            let records = pager.records(number, &ids)?;
            pager.land(&model.device)?;
            pager.tier.want(number, &records);
            for part in 0..self.programs.steps[number].parts.len() {
                let done = self.waves(pager, &mut recording, frame, number, part, &records);
                if done.is_err() {
                    records.iter().for_each(|&r| pager.tier.unpin(r));
                }
                done?;
                recording.run([&self.programs.steps[number].parts[part].after], frame);
            }
        }
        let bytes = self.finish(&mut recording, frame);
        self.returned(&mut recording, bytes)
    }

    /// Runs one part of a step's experts: first those that are in slots, then the others as they come.
    fn waves(
        &self,
        pager: &mut Pager,
        recording: &mut Recording<'_>,
        frame: &Frame,
        step: usize,
        part: usize,
        records: &[RecordId],
    ) -> Result<()> {
        let device = &self.model.device;
        let experts = &self.programs.steps[step].parts[part].experts;
        let late = Frame { late: true, ..frame.clone() };
        pager.land(device)?;
        let (mut wave, missing): (Vec<_>, Vec<_>) = records.iter().partition(|&&r| pager.tier.slot(r).is_some());
        wave.iter().for_each(|&r| pager.tier.pin(r));
        let mut missing = missing.as_slice();
        loop {
            if !wave.is_empty() {
                pager.table.show(wave.iter().copied());
                pager.table.flush(device);
                recording.run([experts], &late);
                let submission = recording.submit();
                pager.fly(device, submission, std::mem::take(&mut wave))?;
            }
            if missing.is_empty() {
                return Ok(());
            }
            // What does not come in one wave comes in waves of half the slots: one is read while another computes.
            let slots = pager.slots_of(step);
            let most = if missing.len() + pager.flying() <= slots { missing.len() } else { slots.div_ceil(2) };
            let begun = Instant::now();
            let idle = pager.flying() == 0;
            let mut admitted = pager.admit(missing, most);
            if admitted.is_empty() {
                pager.land(device)?;
                admitted = pager.admit(missing, most);
            }
            if admitted.is_empty() {
                return Err(Error::Device("there is no slot for an expert".into()));
            }
            pager.bring(device, &admitted)?;
            if idle {
                pager.stall += begun.elapsed();
            }
            missing = &missing[admitted.len()..];
            wave = admitted.into_iter().map(|(r, _)| r).collect();
        }
    }
}
