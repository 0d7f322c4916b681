//! Plans on the CPU: a plain reference that defines every operation.

pub mod reference;
