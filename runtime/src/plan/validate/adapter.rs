//! Adapters: they add to maps that exist, in their shapes.

use super::{Caps, Check, Validator, ensure, fail, in_range};
use crate::plan::{Adapter, Delta, Feature, Linear, Part, Router, Score, Step, Work};

impl Validator<'_> {
    pub(super) fn adapter(&self, a: &Adapter) -> Check {
        for (name, delta) in &a.deltas {
            self.delta(name, delta, &format!("adapter.deltas.{name}"))?;
        }
        for (&step, router) in &a.mixtures {
            let at = format!("adapter.mixtures.{step}");
            let Some(Step { work: Work::Ffn(ffn), from, .. }) = self.plan.steps.get(step as usize) else {
                return fail(at, "there is no such feed-forward step");
            };
            let Some(shared) = &ffn.shared else {
                return fail(at, "the step has no always-on part");
            };
            let parts = [shared.gate.as_ref(), Some(&shared.up), Some(&shared.down)];
            let deltas: Vec<&Delta> = parts.into_iter().flatten().filter_map(|l| a.deltas.get(&l.weight)).collect();
            let Some(experts) = deltas.first().map(|d| d.experts) else {
                return fail(at, "none of the part's matrices has a delta");
            };
            let alike = deltas.iter().all(|d| d.experts == experts && d.router.is_none());
            ensure(alike, &at, || "the part's deltas need one number of experts and no routers of their own".into())?;
            self.own_router(router, experts, self.plan.stream_width(*from).unwrap_or(0), &at)?;
        }
        Ok(())
    }

    fn delta(&self, name: &str, d: &Delta, at: &str) -> Check {
        ensure(self.maps().any(|l| l.weight == name), at, || "no linear map of the plan's steps has this matrix".into())?;
        let Some((rows, cols)) = self.tensors.matrix(name) else {
            return fail(at, format!("there is no matrix {name:?}"));
        };
        in_range(d.experts, Caps::ROUTES, at)?;
        in_range(d.rank, Caps::HEAD_DIM, at)?;
        self.matrix(&d.down, d.experts * d.rank, cols, at)?;
        self.matrix(&d.up, rows, d.experts * d.rank, at)?;
        d.router.as_ref().map_or(Ok(()), |r| self.own_router(r, d.experts, cols, at))
    }

    /// A router of the adapter looks at what the map looks at, and has no memory.
    fn own_router(&self, r: &Router, experts: u32, width: u32, at: &str) -> Check {
        let plain = r.feature == Feature::Input && !matches!(r.score, Score::Recurrent { .. });
        ensure(plain, at, || "an adapter's router looks at the input and has no memory".into())?;
        self.router(r, experts, width, at)
    }

    /// The linear maps that can be adapted: projections of attention, and always-on parts.
    fn maps(&self) -> impl Iterator<Item = &Linear> {
        self.plan.steps.iter().flat_map(|s| match &s.work {
            Work::Attention(a) => [&a.q, &a.k, &a.v, &a.o]
                .into_iter()
                .filter_map(|p| match p {
                    Part::Shared(l) => Some(l),
                    _ => None,
                })
                .collect::<Vec<_>>(),
            Work::Ffn(f) => f.shared.iter().flat_map(|s| s.gate.iter().chain([&s.up, &s.down])).collect(),
            Work::Convolution(_) | Work::Identity => Vec::new(),
        })
    }
}
