//! Where training computes.

use candle_core::Device;

use crate::failure::{Failure, Result};

/// A kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, clap::ValueEnum)]
pub(crate) enum Place {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU, in a program that was built with the feature `cuda`.
    Cuda,
    /// The first GPU of a Mac, in a program that was built with the feature `metal`.
    Metal,
}

impl Place {
    /// The device.
    ///
    /// # Errors
    /// When this program was built without it, or there is none.
    pub(crate) fn device(self) -> Result<Device> {
        let (name, built) = match self {
            Place::Cpu => return Ok(Device::Cpu),
            Place::Cuda => ("cuda", cfg!(feature = "cuda")),
            Place::Metal => ("metal", cfg!(feature = "metal")),
        };
        if !built {
            let way = format!("build it with `cargo build --release --features {name}`, or train with --device cpu");
            return Err(Failure::new(format!("this program was built without {name}; {way}")));
        }
        let device = if self == Place::Cuda { Device::new_cuda(0) } else { Device::new_metal(0) };
        device.map_err(|e| Failure::new(format!("there is no device of the kind {name}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn what_was_not_built_is_said() {
        assert!(Place::Cpu.device().unwrap().is_cpu());
        if !cfg!(feature = "cuda") {
            assert!(Place::Cuda.device().unwrap_err().to_string().contains("--features cuda"));
        }
        if !cfg!(feature = "metal") {
            assert!(Place::Metal.device().unwrap_err().to_string().contains("--features metal"));
        }
    }
}
