//! How often records are used: learned while running, fading, saved for a warm start.

use serde::{Deserialize, Serialize};

use super::{Catalogue, RecordId};

/// A point in a run: forward passes so far, and the step of the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Forward passes, of one token or of a batch.
    pub pass: u64,
    /// Step of the plan.
    pub step: usize,
}

/// Speeds at which shares are kept.
pub(super) const SPEEDS: usize = 4;

/// What one turn contributes to a share: the first remembers the last turn only, the last one some two hundred.
const GAINS: [f32; SPEEDS] = [1.0, 1.0 / 6.0, 1.0 / 36.0, 1.0 / 216.0];

/// Turns that what is expected without any observation is worth, and what a warm start is worth.
const COLD: u32 = 8;
const WARM: u32 = 64;

/// Shares of its pool's turns that used a record, older turns weighing less, at each speed.
pub(super) type Shares = [f32; SPEEDS];

/// Uses of one record.
#[derive(Clone, Copy, Debug)]
struct Uses {
    shares: Shares,
    /// Turns of its pool that these are based on.
    turns: u32,
    /// The last use.
    last: Option<Moment>,
}

/// The uses of every record. Each time a step uses a pool is a turn of that pool's records.
#[derive(Clone, Debug)]
pub struct Heat {
    uses: Vec<Uses>,
}

/// Heat as it is kept between runs: for each pool, the share of turns that used each record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// The bundle's.
    fingerprint: String,
    pools: Vec<Vec<f32>>,
}

/// Version of the saved form.
const VERSION: u32 = 1;

impl Heat {
    /// Nothing was used yet: all records of a pool are equal.
    pub fn cold(catalogue: &Catalogue) -> Heat {
        let of_pool = |p: &super::PoolRecords| {
            (0..p.records).map({
                let even = p.even();
                move |_| Uses::new(even, COLD)
            })
        };
        Heat { uses: catalogue.pools().iter().flat_map(of_pool).collect() }
    }

    /// Notes that a turn of its pool used a record or did not.
    pub fn note(&mut self, record: RecordId, used: bool, now: Moment) {
        let uses = &mut self.uses[record.index()];
        // The first turns make an average.
        uses.turns = uses.turns.saturating_add(1);
        let average = 1.0 / uses.turns as f32;
        for (share, gain) in uses.shares.iter_mut().zip(GAINS) {
            *share += gain.max(average) * (f32::from(u8::from(used)) - *share);
        }
        if used {
            uses.last = Some(now);
        }
    }

    /// Share of turns that used a record, older ones weighing less.
    pub fn share(&self, record: RecordId) -> f32 {
        self.shares(record)[SPEEDS - 1]
    }

    /// Records that are known to be used, the hottest first: those worth bringing before anybody asks.
    pub fn hottest(&self, catalogue: &Catalogue) -> Vec<RecordId> {
        let mut hot = Vec::new();
        for pool in catalogue.pools() {
            let known = |r: &RecordId| self.uses[r.index()].turns > COLD && self.share(*r) > 0.5 * pool.even();
            hot.extend((pool.first..pool.first + pool.records).map(RecordId).filter(known));
        }
        hot.sort_by(|a, b| self.share(*b).total_cmp(&self.share(*a)));
        hot
    }

    /// [`share`](Self::share) at every speed.
    pub(super) fn shares(&self, record: RecordId) -> &Shares {
        &self.uses[record.index()].shares
    }

    /// When a record was last used.
    pub fn last(&self, record: RecordId) -> Option<Moment> {
        self.uses[record.index()].last
    }

    /// As JSON, tied to the bundle with this fingerprint.
    pub fn save(&self, catalogue: &Catalogue, fingerprint: &str) -> String {
        let of_pool = |p: &super::PoolRecords| (p.first..p.first + p.records).map(|r| self.share(RecordId(r))).collect();
        let saved = Saved { version: VERSION, fingerprint: fingerprint.to_owned(), pools: catalogue.pools().iter().map(of_pool).collect() };
        // A struct of strings and numbers has no way to fail.
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// What [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// A sentence about what is wrong: not such a file, of a newer version, or of another bundle.
    pub fn load(json: &str, catalogue: &Catalogue, fingerprint: &str) -> Result<Heat, String> {
        let saved: Saved = serde_json::from_str(json).map_err(|e| format!("this is no heat file: {e}"))?;
        if saved.version > VERSION {
            return Err(format!("version {} of heat files is newer than this program", saved.version));
        }
        if saved.fingerprint != fingerprint {
            return Err("the heat belongs to another bundle; learn it anew by running this one".into());
        }
        let fits = saved.pools.len() == catalogue.pools().len()
            && saved.pools.iter().zip(catalogue.pools()).all(|(s, p)| s.len() == p.records as usize);
        if !fits || saved.pools.iter().flatten().any(|share| !(0.0..=1.0).contains(share)) {
            return Err("the heat file is damaged: its pools are not those of the bundle".into());
        }
        Ok(Heat { uses: saved.pools.iter().flatten().map(|&share| Uses::new(share, WARM)).collect() })
    }
}

impl Uses {
    /// Nothing but an expectation that is worth so many turns.
    fn new(share: f32, turns: u32) -> Uses {
        Uses { shares: [share; SPEEDS], turns, last: None }
    }
}
