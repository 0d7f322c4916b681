//! One file for each command.

pub(crate) mod convert;
pub(crate) mod inspect;
pub(crate) mod synth;
