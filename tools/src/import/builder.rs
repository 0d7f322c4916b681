//! Collects a plan and, for each matrix and vector it names, where the values come from. Every checkpoint tensor is checked against
//! the shape the configuration promises, and marked as used.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use hotset::plan::{Embedding, Expert, Head, Linear, Name, Norm, Plan, Pool, Rotation, State, Step, Stream, VERSION};

use super::{Dense, Import, Shape, Slice, Source, Usage};
use crate::checkpoint::{Tensor, Tensors};
use crate::failure::{Failure, Result};

/// A model under construction.
pub(super) struct Builder<'a> {
    tensors: &'a Tensors,
    /// Where to note what a checkpoint of this configuration would hold, instead of looking for it.
    wanted: Option<&'a RefCell<Tensors>>,
    used: BTreeSet<String>,
    dense: BTreeMap<Name, Dense>,
    rotations: Vec<Rotation>,
    pools: Vec<Pool>,
    experts: Vec<Vec<Vec<Source>>>,
    streams: Vec<Stream>,
    memories: Vec<u32>,
    states: Vec<State>,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(tensors: &'a Tensors) -> Builder<'a> {
        Builder {
            tensors,
            wanted: None,
            used: BTreeSet::new(),
            dense: BTreeMap::new(),
            rotations: Vec::new(),
            pools: Vec::new(),
            experts: Vec::new(),
            streams: Vec::new(),
            memories: Vec::new(),
            states: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Notes in `wanted` what a checkpoint would hold.
    pub(super) fn wishing(tensors: &'a Tensors, wanted: &'a RefCell<Tensors>) -> Builder<'a> {
        Builder { wanted: Some(wanted), ..Builder::new(tensors) }
    }

    /// Whether the checkpoint has a tensor of that name.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.contains_key(tensor)
    }

    /// Length of the last axis of the checkpoint's tensor of that name.
    pub(super) fn columns(&self, tensor: &str) -> Option<u32> {
        self.tensors.get(tensor).and_then(|t| t.shape.last()).and_then(|&n| u32::try_from(n).ok())
    }

    /// Whether both names lead to the same values.
    pub(super) fn same(&self, a: &str, b: &str) -> bool {
        self.tensors.get(a).zip(self.tensors.get(b)).is_some_and(|(a, b)| a.is(b))
    }

    /// Leaves a tensor out on purpose.
    pub(super) fn ignore(&mut self, tensor: &str) {
        self.used.insert(tensor.to_owned());
    }

    /// Leaves out all tensors whose name begins with `prefix`.
    pub(super) fn ignore_all(&mut self, prefix: &str) {
        self.used.extend(self.tensors.range(prefix.to_owned()..).map(|(n, _)| n).take_while(|n| n.starts_with(prefix)).cloned());
    }

    /// The checkpoint's tensor `name`, which must have the shape `dims`.
    pub(super) fn tensor(&mut self, name: &str, dims: &[u32]) -> Result<Slice> {
        if let Some(wanted) = self.wanted {
            let shape = dims.iter().map(|&n| n as usize).collect();
            let tensor = Tensor::unwritten(shape).ok_or_else(|| Failure::new(format!("tensor {name:?} of shape {dims:?} is too large")))?;
            wanted.borrow_mut().insert(name.to_owned(), tensor);
            return Ok(Slice::of(name));
        }
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Failure::new(format!("the checkpoint lacks the tensor {name:?}, of shape {dims:?} by its config.json")));
        };
        if !tensor.shape.iter().copied().eq(dims.iter().map(|&n| n as usize)) {
            let shape = &tensor.shape;
            return Err(Failure::new(format!("tensor {name:?} has shape {shape:?}; by config.json it should be {dims:?}")));
        }
        self.used.insert(name.to_owned());
        Ok(Slice::of(name))
    }

    /// Stores a `[rows, cols]` matrix as `name`.
    pub(super) fn matrix(&mut self, name: impl Into<Name>, usage: Usage, source: impl Into<Source>, rows: u32, cols: u32) -> Name {
        self.store(name.into(), Shape::Matrix { rows, cols }, usage, source.into())
    }

    /// Stores the checkpoint's vector `tensor` of `len` values as `name`.
    pub(super) fn vector(&mut self, name: impl Into<Name>, tensor: &str, len: u32) -> Result<Name> {
        let slice = self.tensor(tensor, &[len])?;
        Ok(self.store(name.into(), Shape::Vector { len }, Usage::Weight, Source::Slice(slice)))
    }

    pub(super) fn store(&mut self, name: Name, shape: Shape, usage: Usage, source: Source) -> Name {
        self.dense.insert(name.clone(), Dense { shape, usage, source });
        name
    }

    /// Multiplies everything in the stored matrix or vector `name`.
    pub(super) fn scale(&mut self, name: &str, by: f32) {
        if let Some(dense) = self.dense.get_mut(name).filter(|_| by != 1.0) {
            let of = std::mem::replace(&mut dense.source, Source::Constant(0.0));
            dense.source = Source::Scaled(Box::new(of), by);
        }
    }

    /// The linear layer `prefix.weight` `[rows, cols]`, with `prefix.bias` if it has one, as `name.weight` and `name.bias`.
    pub(super) fn linear(&mut self, name: &str, prefix: &str, rows: u32, cols: u32, bias: bool) -> Result<Linear> {
        let slice = self.tensor(&format!("{prefix}.weight"), &[rows, cols])?;
        let weight = self.matrix(format!("{name}.weight"), Usage::Weight, slice, rows, cols);
        let bias = if bias { Some(self.vector(format!("{name}.bias"), &format!("{prefix}.bias"), rows)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// A matrix `[rows, cols]` of a router: small, and decisive enough to be stored in full precision.
    pub(super) fn router(&mut self, name: &str, tensor: &str, rows: u32, cols: u32) -> Result<Linear> {
        let slice = self.tensor(tensor, &[rows, cols])?;
        Ok(Linear { weight: self.matrix(format!("{name}.weight"), Usage::Router, slice, rows, cols), bias: None })
    }

    /// An RMS norm over `len` values.
    pub(super) fn rms(&mut self, name: &str, prefix: &str, len: u32, eps: f32) -> Result<Norm> {
        Ok(Norm::Rms { weight: self.vector(format!("{name}.weight"), &format!("{prefix}.weight"), len)?, eps })
    }

    /// A layer norm with bias over `len` values.
    pub(super) fn layer_norm(&mut self, name: &str, prefix: &str, len: u32, eps: f32) -> Result<Norm> {
        let weight = self.vector(format!("{name}.weight"), &format!("{prefix}.weight"), len)?;
        let bias = Some(self.vector(format!("{name}.bias"), &format!("{prefix}.bias"), len)?);
        Ok(Norm::Layer { weight, bias, eps })
    }

    /// A pool whose record `i` holds the matrices `experts[i]`, in the order of [`Expert::matrices`], and then their biases.
    pub(super) fn pool<S: Into<Source>>(&mut self, name: String, expert: Expert, experts: Vec<Vec<S>>) -> u32 {
        // The codec is chosen when the bundle is written.
        let codec = hotset::codec::Codec::F32;
        let records = u32::try_from(experts.len()).unwrap_or(u32::MAX);
        self.pools.push(Pool { name, expert, codec, records, alias: None });
        self.experts.push(experts.into_iter().map(|e| e.into_iter().map(S::into).collect()).collect());
        index(self.pools.len())
    }

    /// Says which record each expert id of a pool is.
    pub(super) fn alias(&mut self, pool: u32, records: Vec<Option<u32>>) {
        self.pools[pool as usize].alias = Some(records);
    }

    pub(super) fn state(&mut self, state: State) -> u32 {
        self.states.push(state);
        index(self.states.len())
    }

    /// A stream beside the residual stream; gives the number by which steps name it.
    pub(super) fn stream(&mut self, stream: Stream) -> u32 {
        self.streams.push(stream);
        index(self.streams.len()) + 1
    }

    /// What a recurrent router carries, `width` wide.
    pub(super) fn memory(&mut self, width: u32) -> u32 {
        self.memories.push(width);
        index(self.memories.len())
    }

    pub(super) fn rotation(&mut self, rotation: Rotation) -> u32 {
        self.rotations.push(rotation);
        index(self.rotations.len())
    }

    pub(super) fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// The embedding table `[vocab, width]`.
    pub(super) fn embedding(&mut self, tensor: &str, vocab: u32, width: u32, scale: f32) -> Result<Embedding> {
        let slice = self.tensor(tensor, &[vocab, width])?;
        Ok(Embedding::new(self.matrix("embedding.weight", Usage::Vocabulary, slice, vocab, width), scale))
    }

    /// The output matrix. A tied model may still carry its own copy; when the two differ the copy counts, as in transformers.
    pub(super) fn output(&mut self, embedding: &Embedding, tied: bool, table: &str, vocab: u32, width: u32) -> Result<Linear> {
        const OUTPUT: &str = "lm_head.weight";
        if tied && (!self.has(OUTPUT) || self.same(OUTPUT, table)) {
            self.ignore(OUTPUT);
            return Ok(Linear { weight: embedding.table.clone(), bias: None });
        }
        let slice = self.tensor(OUTPUT, &[vocab, width])?;
        Ok(Linear { weight: self.matrix("head.output.weight", Usage::Vocabulary, slice, vocab, width), bias: None })
    }

    /// The finished model. Fails when the checkpoint holds something that no part of the model used.
    pub(super) fn finish(self, width: u32, vocab: u32, context: Option<u32>, embedding: Embedding, head: Head) -> Result<Import> {
        let Builder { rotations, pools, streams, memories, states, steps, .. } = self;
        let leftover: Vec<&String> = self.tensors.keys().filter(|n| !self.used.contains(*n) && !is_constant(n)).collect();
        if let Some(first) = leftover.first() {
            let more = if leftover.len() > 1 { format!(" and {} more", leftover.len() - 1) } else { String::new() };
            return Err(Failure::new(format!(
                "the checkpoint holds the tensor {first:?}{more}, which its config.json does not account for; converting it would lose them"
            )));
        }
        let plan = Plan {
            version: VERSION,
            width,
            vocab,
            context,
            embedding,
            streams,
            memories,
            rotations,
            pools,
            states,
            steps,
            head,
            adapter: None,
        };
        Ok(Import { plan, dense: self.dense, experts: self.experts })
    }
}

/// Index of the last of `len` items.
fn index(len: usize) -> u32 {
    u32::try_from(len - 1).unwrap_or(u32::MAX)
}

/// Tables that some implementations save beside their weights and that follow from the configuration.
fn is_constant(tensor: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.mask", ".attn.cum_weight"].iter().any(|suffix| tensor.ends_with(suffix))
}
