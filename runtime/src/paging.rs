//! How a model lives with less memory than it has weights.

use crate::bundle::Reading;
use crate::experts::Policy;

/// Where experts live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In as many slots as the budget pays for; the others are brought when they are chosen. Changes no bit of any result. Without a budget
    /// there is a slot for everyone.
    #[default]
    Paged,
    /// All in memory; a budget that does not hold them is an error.
    Resident,
    /// On a GPU, as paged; but the CPU computes a missing feed-forward expert of a single token where that takes less time than bringing it.
    /// Results are then rounded otherwise and not the same from run to run.
    Hybrid,
}

impl std::str::FromStr for Placement {
    type Err = String;

    fn from_str(s: &str) -> Result<Placement, String> {
        match s {
            "paged" => Ok(Placement::Paged),
            "resident" => Ok(Placement::Resident),
            "hybrid" => Ok(Placement::Hybrid),
            _ => Err(format!("there is no placement {s:?}, only paged, resident and hybrid")),
        }
    }
}

/// Budgets, and how to live with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagingOptions {
    /// Bytes that everything together may take on the device that runs the model, whichever it is: as `vram` on a GPU, as `ram` on the CPU,
    /// where these do not say otherwise.
    pub budget: Option<u64>,
    /// Bytes of a GPU's memory that everything together may take: weights, caches of all conversations, working memory, slots of experts.
    pub vram: Option<u64>,
    /// Bytes of the system's memory: for a model on the CPU, likewise all it may take; for one on a GPU, which needs `vram` too, what of the
    /// experts that have no slot there is kept nearer than the file.
    pub ram: Option<u64>,
    /// Where experts live.
    pub placement: Placement,
    /// Which expert leaves when another needs its slot.
    pub policy: Policy,
    /// How experts are brought from the file.
    pub reading: Reading,
    /// Whether experts that the next step will probably use are brought before it asks, on the CPU. Their guess always decides who stays.
    pub prefetch: bool,
    /// What an earlier run learned about which experts are used, as [`Engine::heat`](crate::Engine::heat) gave it.
    pub heat: Option<String>,
}

impl PagingOptions {
    /// Remembers another budget for a model that runs on `cpu` or `gpu`.
    pub(crate) fn set(&mut self, kind: &str, bytes: u64) {
        let own = if kind == "gpu" { &mut self.vram } else { &mut self.ram };
        match own {
            Some(own) => *own = bytes,
            None => self.budget = Some(bytes),
        }
    }
}
