//! Who leaves first when room is needed.

use std::str::FromStr;

use super::Moment;

/// What is known of a record that could leave.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Steps until its pool is used next.
    pub steps_until: usize,
    /// Steps of the plan.
    pub steps: usize,
    /// Turns of its pool in a pass: steps that use it.
    pub turns: u32,
    /// Share of its pool's turns that used it, older ones weighing less.
    pub share: f32,
    /// How likely its pool's next turn uses it, judging by what it did at its last turn, lately, and in the long run.
    pub chance: f32,
    /// Its last use.
    pub last: Option<Moment>,
    /// A router's guess says that it is used when its pool's turn comes, still in this pass.
    pub expected: bool,
}

/// A rule for eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Whatever is expected to be used latest: after the steps until its pool's turn, and then after as many turns as its chance
    /// suggests. Records of steps just passed leave first, the rarely used ones among them.
    #[default]
    NextUse,
    /// The longest unused.
    Lru,
    /// The least often used.
    Lfu,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 3] = [Policy::NextUse, Policy::Lru, Policy::Lfu];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Policy::NextUse => "next-use",
            Policy::Lru => "lru",
            Policy::Lfu => "lfu",
        }
    }

    /// The record with the largest number leaves.
    pub fn rank(self, f: &Facts) -> f64 {
        match self {
            Policy::NextUse => next_use(f),
            Policy::Lru => f.last.map_or(f64::INFINITY, |m| -((m.pass as f64) * f.steps as f64 + m.step as f64)),
            Policy::Lfu => -f64::from(f.share),
        }
    }
}

/// Expected time to the next use, in passes.
fn next_use(f: &Facts) -> f64 {
    let turn = f.steps_until as f64 / f.steps as f64;
    if f.expected {
        return turn;
    }
    let chance = f64::from(f.chance);
    turn + (1.0 - chance) / chance.max(1e-9) / f64::from(f.turns.max(1))
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(s: &str) -> Result<Policy, String> {
        let names = || Policy::ALL.map(Policy::name).join(", ");
        Policy::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| format!("there is no policy {s:?}, only {}", names()))
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
