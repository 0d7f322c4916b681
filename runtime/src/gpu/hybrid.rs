//! Missing experts on the CPU instead of on their way: where computing one is cheaper than bringing it, and it is not likely to be needed
//! again soon.
//!
//! The CPU rounds otherwise than the GPU, and which experts it takes depends on how long things took: results are close to those of a
//! resident model and not the same from run to run. So this is for who asks for it.

use std::time::{Duration, Instant};

use super::pager::{NOBODY, Pager};
use super::program::Recording;
use super::run::GpuRun;
use super::scratch::row;
use crate::bundle::Bundle;
use crate::cpu;
use crate::error::Result;
use crate::experts::RecordId;
use crate::plan::Work;

/// The CPU as a helper, and what things cost.
pub(super) struct Assistant {
    experts: cpu::Experts,
    load: Cost,
    compute: Cost,
    /// Experts computed so far.
    pub(super) computed: u64,
}

/// Seconds per byte, recent ones weighing more; `None` before the first.
#[derive(Default)]
struct Cost(Option<f64>);

impl Cost {
    fn learn(&mut self, time: Duration, bytes: u64) {
        let now = time.as_secs_f64() / bytes.max(1) as f64;
        self.0 = Some(self.0.map_or(now, |before| 0.8 * before + 0.2 * now));
    }
}

impl Assistant {
    /// # Errors
    /// When the system refuses to start threads.
    pub(super) fn new() -> Result<Assistant> {
        Ok(Assistant { experts: cpu::Experts::new()?, load: Cost::default(), compute: Cost::default(), computed: 0 })
    }

    /// Bringing `bytes` took so long.
    pub(super) fn brought(&mut self, time: Duration, bytes: u64) {
        self.load.learn(time, bytes);
    }

    /// How many of `missing` experts the CPU should take: none before a load was seen, then one to see what that costs.
    fn share(&self, missing: usize) -> usize {
        match (self.load.0, self.compute.0) {
            (None, _) => 0,
            (Some(_), None) => missing.min(1),
            (Some(load), Some(compute)) if compute < load => missing,
            _ => 0,
        }
    }

    /// `[records][D]` for the input `x`, which is `[D]`.
    fn compute(&mut self, bundle: &Bundle, pool: usize, records: &[u32], x: &[f32]) -> Result<Vec<Vec<f32>>> {
        let begun = Instant::now();
        let rows = self.experts.compute(bundle, pool, records, x)?;
        self.compute.learn(begun.elapsed(), (bundle.record_layout(pool).bytes * records.len()) as u64);
        self.computed += records.len() as u64;
        Ok(rows)
    }
}

impl Pager {
    /// Which missing experts of a feed-forward step the CPU should take. One that was used in the pass before is worth bringing, and so is
    /// one that nobody has to leave for.
    fn cheaper_on_the_cpu(&self, step: usize, ids: &[u32]) -> Result<Vec<RecordId>> {
        let Some(assistant) = &self.assistant else { return Ok(Vec::new()) };
        let passing = |r: &RecordId| {
            let again = self.tier.heat().last(*r).is_some_and(|m| m.pass + 1 >= self.tier.now().pass);
            self.tier.slot(*r).is_none() && !self.tier.has_room(*r) && !again
        };
        let mut records: Vec<RecordId> = self.records(step, ids)?.into_iter().filter(passing).collect();
        records.truncate(assistant.share(records.len()));
        Ok(records)
    }
}

impl GpuRun {
    /// Computes some of the experts that a single token chose at `step` and that are missing, and says which.
    pub(super) fn assist(&self, pager: &mut Pager, step: usize, ids: &[u32]) -> Result<Vec<RecordId>> {
        let (device, plan) = (&self.model.device, self.bundle.plan());
        let (Work::Ffn(_), Some(routed)) = (&plan.steps[step].work, &plan.steps[step].routed) else { return Ok(Vec::new()) };
        let taken = pager.cheaper_on_the_cpu(step, ids)?;
        let Some(assistant) = pager.assistant.as_mut().filter(|_| !taken.is_empty()) else { return Ok(Vec::new()) };

        let scratch = &self.memory.scratch;
        let (at, bytes) = (self.head(), u64::from(plan.width) * 4);
        let mut recording = Recording::new(device);
        recording.copy((&scratch.a, 0), (&self.memory.results, at), bytes);
        let input = device.read(recording.submit(), &self.memory.results, at..at + bytes)?;
        let input: Vec<f32> = input.as_chunks().0.iter().map(|w| f32::from_le_bytes(*w)).collect();

        let pool = routed.pool as usize;
        let records: Vec<u32> = taken.iter().map(|r| pager.catalogue.locate(*r).1).collect();
        let rows = assistant.compute(&self.model.bundle, pool, &records, &input)?;
        for (route, &expert) in (0u64..).zip(ids).filter(|(_, e)| **e != NOBODY) {
            let record = plan.pools[pool].record_of(expert);
            if let Some((_, y)) = records.iter().zip(&rows).find(|(r, _)| Some(**r) == record) {
                let to = route * u64::from(row(plan.width)) * 4;
                device.queue.write_buffer(&scratch.routed, to, bytemuck::cast_slice(y));
            }
        }
        Ok(taken)
    }
}
