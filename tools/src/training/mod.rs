//! What training needs, whatever is trained: a model made of a plan, batches of text, an optimiser with its schedule, the loss on held-out
//! text, a folder for the result.
//!
//! Gradients come from `candle`.

mod adam;
mod batches;
mod course;
pub(crate) mod interpreter;
mod keeper;
mod loss;
mod measure;
pub(crate) mod ops;
mod optimiser;
mod output;
mod place;
mod stored;
mod subject;
mod teaching;
mod texts;
mod weights;

pub(crate) use batches::{Batch, Batches, mixed};
pub(crate) use course::{Course, Lesson, Objective};
pub(crate) use keeper::Keeper;
pub(crate) use loss::{Model, cross_entropy, held_out};
pub(crate) use measure::{Measured, measure};
pub(crate) use optimiser::{Optimiser, Schedule};
pub(crate) use output::Folder;
pub(crate) use place::Place;
pub(crate) use stored::{Stored, updated};
pub(crate) use subject::Subject;
pub(crate) use teaching::{Progress, Settings, Teaching, WINDOWS};
pub(crate) use texts::Texts;
pub(crate) use weights::Weights;
