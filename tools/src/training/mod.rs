//! What training needs, whatever is trained: batches of text, an optimiser with its schedule, the loss on held-out text.
//!
//! Gradients come from `candle`, on the CPU. Nothing here knows a model: a model is a function from tokens to logits.

mod batches;
mod loss;
mod optimiser;

pub(crate) use batches::{Batch, Batches};
pub(crate) use loss::{Model, cross_entropy, held_out};
pub(crate) use optimiser::{Optimiser, Schedule};
