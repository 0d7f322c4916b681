//! Feed-forward steps: routed experts into `routed`, the always-on part into `dense`.

use super::{Expansion, Lower, Product, StepProgram, product::Factor};
use crate::error::Result;
use crate::gpu::scratch::{routes, row};
use crate::plan::{Expert, Ffn, Role, Step};

impl Lower<'_> {
    pub(super) fn ffn(&self, program: &mut StepProgram, number: u32, step: &Step, ffn: &Ffn) -> Result<()> {
        let (s, stride) = (self.scratch, self.stride(step.from));
        let weigh = ffn.shared.as_ref().and_then(|p| p.weigh.as_ref());
        if let Some(shared) = &ffn.shared {
            let width = row(self.rows_of(&shared.up.weight)?) / 4;
            let factors = shared.gate.iter().chain([&shared.up]).map(|l| Factor::new(l, 0, width)).collect();
            let first = Product::new(factors, (&s.a, stride), &s.hidden);
            let first = Product { gated: shared.gate.is_some(), activation: Some(shared.activation), ..first };
            self.product(&mut program.before, &first)?;
            self.product(&mut program.before, &Product::new(vec![Factor::new(&shared.down, 0, stride)], (&s.hidden, width), &s.dense))?;
        }
        // The choice comes last: nothing but experts waits for them.
        match (&step.routed, weigh) {
            (Some(routed), _) => self.route(&mut program.before, number, step, routed, weigh)?,
            (None, Some(w)) => {
                let gate = Factor::new(w, self.gate_logits(step), 4);
                self.product(&mut program.before, &Product::new(vec![gate], (&s.a, stride), &s.scores))?;
            }
            (None, None) => {}
        }
        if let Some((routed, pool)) = step.routed.as_ref().map(|r| (r, &self.plan.pools[r.pool as usize])) {
            let Expert::Ffn { hidden, gated, activation, .. } = pool.expert else {
                return Ok(());
            };
            let (routes, width) = (routes(self.plan, step, self.options.routing), row(hidden) / 4);
            let up = Expansion {
                pool: routed.pool,
                first: if gated { Role::Gate } else { Role::Up },
                second: gated.then_some(Role::Up),
                activation: Some(activation),
                routes,
                share: routes,
                x: (&s.a, stride),
                y: (&s.hidden, width),
                out: 0,
                early: 1 + number,
            };
            let experts = program.part();
            self.experts(experts, &up)?;
            let down = Expansion {
                first: Role::Down,
                second: None,
                activation: None,
                share: 1,
                x: (&s.hidden, width),
                y: (&s.routed, stride),
                ..up
            };
            self.experts(experts, &down)?;
        }
        Ok(())
    }
}
