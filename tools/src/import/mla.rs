//! Multi-head latent attention under the names that DeepSeek gave its tensors.

use hotset::plan::{Attention, Latent, Linear, Name, Norm, Part, State};

use super::builder::Builder;
use super::config::Config;
use super::slice::Slice;
use super::turned::{self, Heads};
use super::{Source, Usage};
use crate::failure::Result;

/// Sizes and habits of one model's attention.
#[derive(Clone, Copy)]
pub(super) struct Mla {
    pub(super) width: u32,
    pub(super) heads: u32,
    /// Width between the two matrices of queries; `None` when there is only one.
    pub(super) query_rank: Option<u32>,
    /// Width of the latent, `L`.
    pub(super) rank: u32,
    /// Width of the part of a head that is not rotated, `N`.
    pub(super) plain: u32,
    /// Width of the part of a head that is, `R`.
    pub(super) rotated: u32,
    /// Width of a head's values, `V`.
    pub(super) value: u32,
    /// Whether the projections of the input, and the one back, have biases.
    pub(super) bias: bool,
    /// Of the norms within.
    pub(super) eps: f32,
    /// Whether adjacent elements turn together instead of element `i` of either half.
    pub(super) adjacent: bool,
    /// Multiplier of `q · k`.
    pub(super) scale: f32,
}

impl Mla {
    /// The usual keys of the configuration.
    pub(super) fn read(config: &Config<'_>, width: u32, heads: u32, eps: f32) -> Result<Mla> {
        let (plain, rotated) = (config.size("qk_nope_head_dim")?, config.size("qk_rope_head_dim")?);
        Ok(Mla {
            width,
            heads,
            query_rank: config.size_opt("q_lora_rank")?,
            rank: config.size("kv_lora_rank")?,
            plain,
            rotated,
            value: config.size("v_head_dim")?,
            bias: config.flag("attention_bias", false)?,
            eps,
            adjacent: true,
            scale: 1.0 / ((plain + rotated) as f32).sqrt(),
        })
    }

    /// The attention whose tensors begin with `prefix` and are to be named after `step`.
    pub(super) fn attention(&self, b: &mut Builder<'_>, step: &str, prefix: &str, rotation: u32) -> Result<Attention> {
        let Mla { width, heads, rank, value, rotated, .. } = *self;
        let q = self.query(b, step, prefix)?;
        let (rows, name) = (rank + rotated, format!("{prefix}.kv_a_proj_with_mqa"));
        let row = self.turned(b, &format!("{step}.kv"), &name, (1, rank), width, self.bias)?;
        let k_norm = b.rms(&format!("{step}.kv.norm"), &format!("{prefix}.kv_a_layernorm"), rank, self.eps)?;
        let o = b.linear(&format!("{step}.o"), &format!("{prefix}.o_proj"), width, heads.saturating_mul(value), self.bias)?;
        let latent = self.latent(b, step, &format!("{prefix}.kv_b_proj.weight"))?;
        let parts = [q, Part::Shared(row.clone()), Part::Shared(row), Part::Shared(o)];
        Ok(Attention {
            scale: self.scale,
            k_norm: Some(k_norm),
            latent: Some(latent),
            rotation: Some(rotation),
            ..Attention::new((heads, rows), parts, b.state(State::tied(1, rows)))
        })
    }

    /// Queries `[H·(N+R)]`.
    fn query(&self, b: &mut Builder<'_>, step: &str, prefix: &str) -> Result<Part> {
        let Mla { width, heads, plain, .. } = *self;
        let Some(rank) = self.query_rank else {
            return self.turned(b, &format!("{step}.q"), &format!("{prefix}.q_proj"), (heads, plain), width, false).map(Part::Shared);
        };
        let down = b.linear(&format!("{step}.q.down"), &format!("{prefix}.q_a_proj"), rank, width, self.bias)?;
        let norm: Norm = b.rms(&format!("{step}.q.norm"), &format!("{prefix}.q_a_layernorm"), rank, self.eps)?;
        let up = self.turned(b, &format!("{step}.q.up"), &format!("{prefix}.q_b_proj"), (heads, plain), rank, false)?;
        Ok(Part::LowRank { down, norm, up })
    }

    /// A linear layer of `count · (first + R)` rows; of each head the last `R` turn.
    fn turned(&self, b: &mut Builder<'_>, name: &str, prefix: &str, (count, first): (u32, u32), cols: u32, bias: bool) -> Result<Linear> {
        let heads = Heads { count, first, turned: self.rotated };
        if self.adjacent {
            turned::linear(b, name, prefix, heads, cols, bias)
        } else {
            b.linear(name, prefix, count.saturating_mul(first + self.rotated), cols, bias)
        }
    }

    /// What leads from heads to the latent and back: of each head `[N + V, L]`, the keys' rows and the values'.
    fn latent(&self, b: &mut Builder<'_>, step: &str, tensor: &str) -> Result<Latent> {
        let Mla { heads, rank, plain, value, .. } = *self;
        let head = plain + value;
        let both = b.tensor(tensor, &[heads.saturating_mul(head), rank])?;
        let mut stack = |name: &str, rows: u32, cols, of: &dyn Fn(u32) -> Slice| -> Name {
            let padded = Latent::padded(rows);
            let part = |h| [(rows, of(h * head).into()), (padded - rows, Source::Constant(0.0))];
            let source = Source::Stack((0..heads).flat_map(part).collect());
            b.matrix(format!("{step}.{name}"), Usage::Weight, source, heads.saturating_mul(padded), cols)
        };
        let absorb = stack("absorb", rank, plain, &|at| both.rows(at..at + plain).transposed());
        let expand = stack("expand", value, rank, &|at| both.rows(at + plain..at + head));
        Ok(Latent { rank, query: plain, value, absorb, expand })
    }
}
