//! How likely a record is used, from how records in its situation fared.
//!
//! No formula for "hot" suits every model: with some the last token's experts come back, with others long habits decide. So it is counted:
//! of all records that had been idle for so long and used so often, what share was used when their pool's turn came?

/// Situations: buckets of passes since the last use, times buckets of the long-run share.
const IDLE: usize = 8;
const HABIT: usize = 8;

/// Observations after which older ones count half.
const MEMORY: f32 = 4096.0;

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    turns: f32,
    uses: f32,
}

/// Observed uses by situation.
#[derive(Clone, Debug)]
pub(super) struct Odds {
    cells: [[Cell; HABIT]; IDLE],
}

/// A record's situation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    idle: usize,
    habit: usize,
}

impl Situation {
    /// `idle`: passes since the last use, at least 1; `None` when it was never used. `long`: its long-run share of passes, `even` what it
    /// would be if all records of the pool were equal.
    pub(super) fn new(idle: Option<u64>, long: f32, even: f32) -> Situation {
        // 1, 2, 3–4, 5–8, …
        let idle = idle.map_or(IDLE - 1, |n| (n.max(1) - 1).checked_ilog2().map_or(0, |l| l as usize + 1).min(IDLE - 1));
        // Ratios to the even share: below 1/8, 1/4, …, above 8.
        let habit = ((long / even.max(1e-9)).max(1e-9).log2() + 4.0).clamp(0.0, (HABIT - 1) as f32) as usize;
        Situation { idle, habit }
    }
}

impl Odds {
    pub(super) fn new() -> Odds {
        Odds { cells: Default::default() }
    }

    /// A turn of the pool came and a record in this situation was used or not.
    pub(super) fn observe(&mut self, s: Situation, used: bool) {
        let cell = &mut self.cells[s.idle][s.habit];
        if cell.turns >= MEMORY {
            *cell = Cell { turns: cell.turns / 2.0, uses: cell.uses / 2.0 };
        }
        cell.turns += 1.0;
        cell.uses += f32::from(u8::from(used));
    }

    /// The share that was used. Where little was observed, `prior` weighs in.
    pub(super) fn of(&self, s: Situation, prior: f32) -> f32 {
        /// Observations that the prior is worth.
        const WORTH: f32 = 16.0;
        let cell = self.cells[s.idle][s.habit];
        (cell.uses + WORTH * prior) / (cell.turns + WORTH)
    }
}
