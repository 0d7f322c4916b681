//! How quantised weights are multiplied: three ways, of which one is taken for a device.

use hotset_shaders::{self as shaders, Product};

use super::device::Device;
use super::measure::measure;
use crate::arithmetic::Arithmetic;
use crate::bundle::Bundle;
use crate::codec::Codec;
use crate::error::{Error, Result};

impl Arithmetic {
    /// The kernels' name of a codec's products.
    pub(super) fn product(self, codec: shaders::Codec) -> Product {
        use shaders::Codec;
        match (codec, self) {
            (Codec::F32, _) => Product::F32,
            (Codec::F16, _) => Product::F16,
            (Codec::Bf16, _) => Product::Bf16,
            (Codec::Mxfp4, _) => Product::Mxfp4,
            (Codec::Q8, Arithmetic::Float) => Product::Q8,
            (Codec::Q8, Arithmetic::Half) => Product::Q8Half,
            (Codec::Q8, Arithmetic::Int8) => Product::Q8Int8,
            (Codec::Q4, Arithmetic::Float) => Product::Q4,
            (Codec::Q4, Arithmetic::Half) => Product::Q4Half,
            (Codec::Q4, Arithmetic::Int8) => Product::Q4Int8,
        }
    }

    /// Whether `device` can.
    pub(super) fn exists(self, device: &Device) -> bool {
        self != Arithmetic::Half || device.half
    }
}

/// The smallest quantised codec in a bundle, if any: most of its weights are in it.
pub(super) fn quantised(bundle: &Bundle) -> Option<Codec> {
    let records = bundle.plan().pools.iter().map(|p| p.codec);
    let dense = bundle.manifest().tensors.values().filter_map(|t| Some(t.layout()?.codec));
    let all: Vec<Codec> = records.chain(dense).collect();
    [Codec::Q4, Codec::Q8].into_iter().find(|c| all.contains(c))
}

/// The arithmetic to use: what was asked for, else what is fastest.
///
/// A software adapter takes f32: it shares its processor with everything else, so two starts could differ.
///
/// # Errors
/// When what was asked for does not exist on this device.
pub(super) fn settle(device: &Device, wanted: Option<Arithmetic>, bundle: &Bundle) -> Result<Arithmetic> {
    match (wanted, quantised(bundle)) {
        (Some(a), _) if !a.exists(device) => {
            Err(Error::Device(format!("{} does not compute in {a} precision; choose float or int8 arithmetic", device.report.name)))
        }
        (Some(a), _) => Ok(a),
        (None, Some(codec)) if device.report.hardware => Ok(measure(device, codec).unwrap_or_else(|e| {
            tracing::warn!("taking {} arithmetic: {e}", Arithmetic::Float);
            Arithmetic::Float
        })),
        (None, _) => Ok(Arithmetic::Float),
    }
}
