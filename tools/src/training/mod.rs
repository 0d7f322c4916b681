//! What training needs, whatever is trained: a model made of a plan, batches of text, an optimiser with its schedule, the loss on held-out
//! text, a folder for the result.
//!
//! Gradients come from `candle`.

mod adam;
mod batches;
pub(crate) mod interpreter;
mod loss;
pub(crate) mod ops;
mod optimiser;
mod output;
mod weights;

pub(crate) use batches::{Batch, Batches};
pub(crate) use loss::{Model, cross_entropy, held_out};
pub(crate) use optimiser::{Optimiser, Schedule};
pub(crate) use output::Folder;
pub(crate) use weights::Weights;
