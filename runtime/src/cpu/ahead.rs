//! What later steps will use: known where a router looks at a stream that nothing writes any more, guessed for the step that comes next.

use std::collections::BTreeMap;

use super::batch::{Slab, View};
use super::context::Context;
use super::forward::{Features, feature};
use super::router::{self, RouterSpace};
use super::routes::Routes;
use crate::error::Result;
use crate::plan::{Feature, Plan, Score};

/// The choices of steps to come.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Steps whose choice does not depend on steps before them, with the first step at which that is so.
    settled: Vec<(usize, usize)>,
    /// What these will use, by step.
    known: BTreeMap<usize, Routes>,
}

impl Ahead {
    /// Before the first step.
    pub(super) fn new(plan: &Plan) -> Ahead {
        // For each stream, the step behind the last one that writes it.
        let mut written = vec![0; plan.streams.len() + 1];
        let mut settled = Vec::new();
        for (i, step) in plan.steps.iter().enumerate() {
            if let Some(r) = &step.routed
                && let Feature::Stream(s) = r.router.feature
                && !is_recurrent(&r.router.score)
                && written[s as usize] < i
            {
                settled.push((written[s as usize], i));
            }
            written[step.to as usize] = i + 1;
        }
        Ahead { settled, known: BTreeMap::new() }
    }

    /// The choice of a step, if it was made before.
    pub(super) fn take(&mut self, step: usize) -> Option<Routes> {
        self.known.remove(&step)
    }

    /// The records that steps behind `step` will use, or probably will, in their order. `input` is that of the step, if it is routed.
    pub(super) fn look(
        &mut self,
        c: &Context<'_>,
        step: usize,
        (input, streams): (Option<View<'_>>, &[Slab]),
        features: &mut Features,
        space: &mut RouterSpace,
    ) -> Result<Vec<(usize, u32)>> {
        let plan = c.bundle.plan();
        let now = self.settled.iter().filter(|(since, i)| *since == step && *i > step).map(|s| s.1);
        for i in now {
            if let Some(routed) = &plan.steps[i].routed {
                let (pool, router) = (&plan.pools[routed.pool as usize], &routed.router);
                let x = feature(c, router, None, streams, features)?;
                if let Some(x) = x {
                    self.known.insert(i, router::route(c, router, pool, x, &mut [], space)?);
                }
            }
        }
        let next = plan.steps[step + 1..].iter().position(|s| s.routed.is_some()).map(|n| step + 1 + n);
        let mut records = Vec::new();
        if let Some(next) = next.filter(|n| !self.known.contains_key(n)) {
            // Of another stream the input would say nothing, and may have another width.
            let input = input.filter(|_| plan.steps[next].from == plan.steps[step].from);
            records.extend(guess(c, next, (input, streams), features, space)?);
        }
        for (&i, routes) in &self.known {
            if let Some(routed) = &plan.steps[i].routed {
                records.extend(routes.records().into_iter().map(|r| (routed.pool as usize, r)));
            }
        }
        Ok(records)
    }
}

/// What routed step `next` will probably use: its router's choice for the input of the routed step before it, or for its stream as it is
/// now. Streams change little from step to step.
fn guess(
    c: &Context<'_>,
    next: usize,
    (input, streams): (Option<View<'_>>, &[Slab]),
    features: &mut Features,
    space: &mut RouterSpace,
) -> Result<Vec<(usize, u32)>> {
    let plan = c.bundle.plan();
    let Some(routed) = plan.steps[next].routed.as_ref().filter(|r| !is_recurrent(&r.router.score)) else {
        return Ok(Vec::new());
    };
    let Some(x) = feature(c, &routed.router, input, streams, features)? else { return Ok(Vec::new()) };
    let pool = routed.pool as usize;
    let routes = router::route(c, &routed.router, &plan.pools[pool], x, &mut [], space)?;
    Ok(routes.records().into_iter().map(|r| (pool, r)).collect())
}

/// Such a router cannot be asked ahead of its turn: asking changes its memory.
fn is_recurrent(score: &Score) -> bool {
    matches!(score, Score::Recurrent { .. })
}
