//! What there is to keep: every record of every pool, and which step uses which pool.

use crate::plan::Plan;

/// A record of any pool: pools follow each other, each with its records in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub u32);

impl RecordId {
    /// As an index into a list with one entry for each record.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The records of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRecords {
    /// Number of its first record among those of all pools.
    pub first: u32,
    /// How many there are.
    pub records: u32,
    /// Bytes of each.
    pub bytes: u64,
    /// Most records that one token uses at one step.
    pub routes: u32,
    /// Steps that use it: its turns in a pass.
    pub turns: u32,
}

impl PoolRecords {
    /// Share of turns that would use a record if all were equal.
    pub fn even(&self) -> f32 {
        self.routes as f32 / self.records.max(1) as f32
    }
}

/// All pools and the order in which steps use them.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    pools: Vec<PoolRecords>,
    /// Pool of each record.
    pool_of: Vec<u32>,
    /// Pool of each step of the plan; `None` where nothing is routed.
    steps: Vec<Option<usize>>,
    /// For each step in turn, the steps until each pool is used next, `[steps, pools]`.
    until: Vec<usize>,
}

impl Catalogue {
    /// The catalogue of a plan whose pool `p` has records of `bytes(p)`.
    pub fn new(plan: &Plan, bytes: impl Fn(usize) -> u64) -> Catalogue {
        let steps: Vec<Option<usize>> = plan.steps.iter().map(|s| s.routed.as_ref().map(|r| r.pool as usize)).collect();
        let (mut pools, mut pool_of) = (Vec::new(), Vec::new());
        for (i, pool) in plan.pools.iter().enumerate() {
            let of_step = |r: &crate::plan::Routed| r.router.max_routes(pool.experts());
            let uses = plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| r.pool as usize == i);
            let turns = u32::try_from(uses.clone().count()).unwrap_or(u32::MAX);
            let routes = uses.map(of_step).max().unwrap_or(0).min(pool.records);
            let first = u32::try_from(pool_of.len()).unwrap_or(u32::MAX);
            pools.push(PoolRecords { first, records: pool.records, bytes: bytes(i), routes, turns });
            pool_of.extend((0..pool.records).map(|_| u32::try_from(i).unwrap_or(u32::MAX)));
        }
        let until = (0..steps.len()).flat_map(|step| (0..pools.len()).map(move |pool| (step, pool)));
        let until = until.map(|(step, pool)| steps_until(&steps, pool, step)).collect();
        Catalogue { pools, pool_of, steps, until }
    }

    /// Pools in the plan's order.
    pub fn pools(&self) -> &[PoolRecords] {
        &self.pools
    }

    /// Pool of each step; `None` where nothing is routed.
    pub fn steps(&self) -> &[Option<usize>] {
        &self.steps
    }

    /// Records of all pools.
    pub fn records(&self) -> usize {
        self.pool_of.len()
    }

    /// Number of a pool's record among those of all pools.
    pub fn id(&self, pool: usize, record: u32) -> RecordId {
        RecordId(self.pools[pool].first + record)
    }

    /// Pool of a record, and its number there.
    pub fn locate(&self, id: RecordId) -> (usize, u32) {
        let pool = self.pool_of[id.index()] as usize;
        (pool, id.0 - self.pools[pool].first)
    }

    /// Bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.pools.iter().map(|p| u64::from(p.records) * p.bytes).sum()
    }

    /// Bytes that one token may use: as many records at each step as it may have routes.
    pub fn token_bytes(&self) -> u64 {
        self.steps.iter().flatten().map(|&p| u64::from(self.pools[p].routes) * self.pools[p].bytes).sum()
    }

    /// Steps from `step` until a pool is used next: 0 when this very step uses it, up to the length of the plan less one.
    pub fn steps_until(&self, pool: usize, step: usize) -> usize {
        self.until[step * self.pools.len() + pool]
    }
}

fn steps_until(steps: &[Option<usize>], pool: usize, step: usize) -> usize {
    let ahead = steps[step..].iter().chain(&steps[..step]).position(|&p| p == Some(pool));
    ahead.unwrap_or(steps.len())
}
