//! Routed feed-forward experts, gated: the ways in which checkpoints store them.

use hotset::plan::{Activation, Expert, Linear, Routed, Router, Score, Select, SharedFfn, Value, Weigh};

use super::Slice;
use super::builder::Builder;
use crate::failure::Result;

/// Sizes of a layer's experts.
#[derive(Clone, Copy)]
pub(super) struct Gated {
    pub(super) width: u32,
    pub(super) hidden: u32,
    pub(super) experts: u32,
    pub(super) activation: Activation,
}

impl Gated {
    /// The pool `name` of experts that lie under `prefix`, whichever way they are stored there: each matrix by itself, as
    /// `<expert>.<names>.weight` with the names of gate, up and down, or all experts in `gate_up_proj` and `down_proj`.
    pub(super) fn pool(self, b: &mut Builder<'_>, name: &str, prefix: &str, names: [&str; 3]) -> Result<u32> {
        let fused = format!("{prefix}.gate_up_proj");
        if b.has(&fused) {
            return self.fused_pool(b, name, &fused, &format!("{prefix}.down_proj"));
        }
        let mut experts = Vec::new();
        for e in 0..self.experts {
            let mut matrices = Vec::new();
            for (part, dims) in names.into_iter().zip([[self.hidden, self.width], [self.hidden, self.width], [self.width, self.hidden]]) {
                matrices.push(b.tensor(&format!("{prefix}.{e}.{part}.weight"), &dims)?);
            }
            experts.push(matrices);
        }
        Ok(b.pool(name.to_owned(), self.signature(), experts))
    }

    /// The pool `name` of experts that share the tensors `gate_up` `[E, 2F, D]`, gates first, and `down` `[E, D, F]`.
    pub(super) fn fused_pool(self, b: &mut Builder<'_>, name: &str, gate_up: &str, down: &str) -> Result<u32> {
        let Gated { width, hidden, experts, .. } = self;
        let gate_up = b.tensor(gate_up, &[experts, 2 * hidden, width])?;
        let down = b.tensor(down, &[experts, width, hidden])?;
        let record = |e: usize| -> Vec<Slice> {
            let both = gate_up.expert(e);
            vec![both.rows(0..hidden), both.rows(hidden..2 * hidden), down.expert(e)]
        };
        Ok(b.pool(name.to_owned(), self.signature(), (0..experts as usize).map(record).collect()))
    }

    /// What these experts are.
    pub(super) fn signature(self) -> Expert {
        Expert::Ffn { hidden: self.hidden, gated: true, activation: self.activation, bias: false }
    }
}

/// Routes to the `k` experts with the largest logits. `renormalise`: their weights sum to one; otherwise each keeps its share of the
/// softmax over all experts.
pub(super) fn top_k(pool: u32, score: Score, k: u32, renormalise: bool) -> Routed {
    // Softmax keeps the order of logits, so selecting by logit is the same and never meets rounding ties; dividing the chosen
    // probabilities by their sum is a softmax over the chosen.
    let by = if renormalise { Value::SoftmaxSelected } else { Value::Softmax };
    Routed { pool, router: Router::new(score, Select::top_k(k), Weigh::by(by)) }
}

/// An always-on gated part with matrices of its own under `prefix`, all of them with biases or none.
pub(super) fn gated_ffn(b: &mut Builder<'_>, name: &str, prefix: &str, sizes: Gated, bias: bool) -> Result<SharedFfn> {
    gated_ffn_of(b, name, prefix, ["gate_proj", "up_proj", "down_proj"], sizes, bias)
}

/// The same with the given names of gate, up and down.
pub(super) fn gated_ffn_of(b: &mut Builder<'_>, name: &str, prefix: &str, parts: [&str; 3], sizes: Gated, bias: bool) -> Result<SharedFfn> {
    let Gated { width, hidden, activation, .. } = sizes;
    let mut linear =
        |part: &str, tensor: &str, rows, cols| b.linear(&format!("{name}.{part}"), &format!("{prefix}.{tensor}"), rows, cols, bias);
    let (gate, up) = (Some(linear("gate", parts[0], hidden, width)?), linear("up", parts[1], hidden, width)?);
    Ok(SharedFfn { gate, up, down: linear("down", parts[2], width, hidden)?, activation, weigh: None })
}

/// An always-on gated part whose gate and up matrices share the tensor `gate_up` `[2F, D]`.
pub(super) fn fused_ffn(b: &mut Builder<'_>, name: &str, gate_up: &str, down: &str, sizes: Gated) -> Result<SharedFfn> {
    let Gated { width, hidden, activation, .. } = sizes;
    let both = b.tensor(gate_up, &[2 * hidden, width])?;
    let down = b.tensor(down, &[width, hidden])?;
    let mut matrix = |part: &str, slice, rows, cols| {
        let weight = b.matrix(format!("{name}.{part}.weight"), super::Usage::Weight, slice, rows, cols);
        Linear { weight, bias: None }
    };
    let gate = Some(matrix("gate", both.rows(0..hidden), hidden, width));
    let up = matrix("up", both.rows(hidden..2 * hidden), hidden, width);
    Ok(SharedFfn { gate, up, down: matrix("down", down, width, hidden), activation, weigh: None })
}
