//! Drawing attention steps.

use hotset::plan::{Attention, AttentionKind, Beyond, Expert, Latent, Part, Rotation, State, Work};

use super::Draw;

impl Draw {
    /// An attention step that reads and writes `stream`.
    pub(super) fn attention(&mut self, name: String, stream: u32) {
        let routable = self.width(stream) == self.model.plan.width;
        match self.random.below(6) {
            0 => self.latent(name, stream),
            1 if routable => self.modules(name, stream),
            _ => self.heads(name, stream, routable),
        }
    }

    fn part(&mut self, name: &str, part: &str, rows: u32, cols: u32) -> Part {
        Part::Shared(self.linear(&format!("{name}.{part}"), rows, cols))
    }

    /// Queries, through a narrow middle now and then.
    fn queries(&mut self, name: &str, rows: u32, width: u32) -> Part {
        if self.random.below(4) > 0 {
            return self.part(name, "q", rows, width);
        }
        let rank = self.random.pick(&[12, 20]);
        Part::LowRank {
            down: self.linear(&format!("{name}.q.down"), rank, width),
            norm: self.norm(&format!("{name}.q.down"), rank),
            up: self.linear(&format!("{name}.q.up"), rows, rank),
        }
    }

    fn rotation(&mut self, pairs: u32) -> u32 {
        let frequencies: Vec<f32> = (0..pairs).map(|p| 100f32.powf(-(p as f32) / pairs as f32)).collect();
        let beyond = match self.random.below(4) {
            0 => Some(Beyond::Other { after: 30, frequencies: frequencies.iter().map(|f| f / 3.0).collect(), amplitude: 1.1 }),
            1 if pairs > 1 => Some(Beyond::Growing { after: 30, base: 100.0, factor: 2.0 }),
            _ => None,
        };
        let amplitude = self.random.pick(&[1.0, 1.2]);
        self.model.plan.rotations.push(Rotation { frequencies, amplitude, beyond });
        self.model.plan.rotations.len() as u32 - 1
    }

    fn state(&mut self, state: State) -> u32 {
        self.model.plan.states.push(state);
        self.model.plan.states.len() as u32 - 1
    }

    fn window(&mut self) -> Option<u32> {
        (self.random.below(3) == 0).then_some(5)
    }

    fn sinks(&mut self, name: &str, heads: u32) -> Option<String> {
        (self.random.below(3) == 0).then(|| self.vector(format!("{name}.sinks"), heads, 0.5))
    }

    /// Heads over shared keys, queries and outputs shared or routed.
    fn heads(&mut self, name: String, stream: u32, routable: bool) {
        let width = self.width(stream);
        let kind = self.random.pick(&[AttentionKind::Softmax, AttentionKind::StickBreaking]);
        let identity = self.random.below(4) == 0;
        let head_dim = if identity { width / self.random.pick(&[1, 2]) } else { self.random.pick(&[6, 8, 18]) };
        let kv_heads = if identity { width / head_dim } else { 1 + self.random.below(2) };
        let heads = kv_heads * (1 + self.random.below(3));
        let (query, kv) = (heads * head_dim, kv_heads * head_dim);
        let tied = identity && self.random.coin();
        let expert = routable && self.random.coin();
        let routed = expert.then(|| self.routed(&name, stream, Expert::QueryOutput { heads, head_dim }));
        let (q, o) = match expert {
            true => (Part::Expert, Part::Expert),
            false => (self.queries(&name, query, width), self.part(&name, "o", width, query)),
        };
        let (k, v) = match identity {
            true => (Part::Input, Part::Input),
            false => (self.part(&name, "k", kv, width), self.part(&name, "v", kv, width)),
        };
        let per_head = self.random.coin();
        let q_norm = self.random.coin().then(|| self.norm(&format!("{name}.q"), if per_head { head_dim } else { query }));
        let k_norm = (!tied && self.random.coin()).then(|| self.norm(&format!("{name}.k"), if per_head { head_dim } else { kv }));
        let pairs = (head_dim / self.random.pick(&[2, 4])).max(1);
        let rotation = (!tied && self.random.coin()).then(|| self.rotation(pairs));
        let rotated_first = rotation.is_some() && per_head && self.random.coin();
        let sinks = if kind == AttentionKind::Softmax { self.sinks(&name, heads) } else { None };
        let state = self.state(State { tied, ..State::new(kv_heads, head_dim) });
        let attention = Attention {
            kind,
            clip: self.random.coin().then_some(0.8),
            q_norm,
            k_norm,
            rotation,
            rotated_first,
            sinks,
            window: self.window(),
            ..Attention::new((heads, head_dim), [q, k, v, o], state)
        };
        self.step(name, stream, routed, Work::Attention(attention));
    }

    /// Keys and values compressed into one row.
    fn latent(&mut self, name: String, stream: u32) {
        let width = self.width(stream);
        let heads = 1 + self.random.below(3);
        let (rank, query, value) = (self.random.pick(&[12, 17, 32]), self.random.pick(&[6, 8, 33]), self.random.pick(&[5, 8, 33]));
        let pairs = self.random.below(3);
        let head_dim = rank + 2 * pairs;
        let q = self.queries(&name, heads * (query + 2 * pairs), width);
        let row = self.part(&name, "k", head_dim, width);
        let o = self.part(&name, "o", width, heads * value);
        let latent = Latent {
            rank,
            query,
            value,
            absorb: self.matrix(&format!("{name}.absorb"), heads * Latent::padded(rank), query),
            expand: self.matrix(&format!("{name}.expand"), heads * Latent::padded(value), rank),
        };
        let k_norm = self.random.coin().then(|| self.norm(&format!("{name}.k"), rank));
        let rotation = (pairs > 0).then(|| self.rotation(pairs));
        let state = self.state(State::tied(1, head_dim));
        let attention = Attention {
            latent: Some(latent),
            k_norm,
            rotation,
            sinks: self.sinks(&name, heads),
            window: self.window(),
            ..Attention::new((heads, head_dim), [q, row.clone(), row, o], state)
        };
        self.step(name, stream, None, Work::Attention(attention));
    }

    /// Whole modules as experts: summed into one attention, or each with keys of its own.
    fn modules(&mut self, name: String, stream: u32) {
        let (kv_heads, head_dim) = (1 + self.random.below(2), self.random.pick(&[6, 8, 18]));
        let heads = kv_heads * (1 + self.random.below(2));
        let bias = self.random.coin();
        let routed = self.routed(&name, stream, Expert::Attention { heads, kv_heads, head_dim, bias });
        let (part, state) = match self.random.below(3) {
            0 => (Part::Sum { weighted: self.random.coin() }, State::new(kv_heads, head_dim)),
            _ => (Part::Expert, State::grouped(kv_heads, head_dim)),
        };
        let pairs = head_dim / 2;
        let rotation = self.random.coin().then(|| self.rotation(pairs));
        let rotated_first = rotation.is_some() && self.random.coin();
        let q_norm = self.random.coin().then(|| self.norm(&format!("{name}.q"), head_dim));
        let k_norm = self.random.coin().then(|| self.norm(&format!("{name}.k"), head_dim));
        let state = self.state(state);
        let attention = Attention {
            q_norm,
            k_norm,
            rotation,
            rotated_first,
            sinks: self.sinks(&name, heads),
            window: self.window(),
            ..Attention::new((heads, head_dim), [part.clone(), part.clone(), part, Part::Expert], state)
        };
        self.step(name, stream, Some(routed), Work::Attention(attention));
    }
}
