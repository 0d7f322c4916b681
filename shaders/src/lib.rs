//! The WGSL kernels of Hotset as a typed table; no GPU API here.
//!
//! `wgsl/<kernel>.wgsl` are the kernels, `wgsl/shared` what they import, `variants` which kernel is built for which values of which axes.
//! The build script expands and validates every variant, notes which parts of these texts it is made of, and writes one module per kernel, with
//!
//! * `Buffers<B>`: one field for each binding, in the shader's names, which a host fills with its kind of buffer;
//! * `Params`: the shader's immediates as plain data, field for field;
//! * `kernel(axes…)`: the variant for these values, which knows both types.
//!
//! So a host that disagrees with a shader does not compile. Two values of axes need a feature of the device: [`Lanes::Subgroup`] subgroup
//! operations, and products in `Half` arithmetic half precision.

use std::marker::PhantomData;

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Reads and writes it.
    ReadWrite,
}

/// One compiled form of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Variant {
    /// `kernel/Value/…`, unique.
    pub name: &'static str,
    /// Where its source is in [`SOURCE`]: first byte and end of each part.
    parts: &'static [(u32, u32)],
    /// Invocations of a workgroup.
    pub workgroup: [u32; 3],
}

impl Variant {
    /// Complete source; the entry point is `main`.
    pub fn wgsl(&self) -> String {
        self.parts.iter().map(|&(from, to)| &SOURCE[from as usize..to as usize]).collect()
    }
}

/// The buffers of a kernel: implemented by every generated `Buffers` struct.
pub trait Buffers<B> {
    /// The use of each, in order of binding; all are storage buffers of group 0.
    const ACCESS: &'static [Access];
    /// The use of the latch, the one storage buffer of group 1, which all kernels share.
    const LATCH: Access;
    /// The kernel's immediates.
    type Params: bytemuck::Pod;
    /// The buffers in order of binding.
    fn list(self) -> impl Iterator<Item = B>;
}

/// A variant together with the types of its buffers and parameters.
pub struct Kernel<B> {
    /// What to compile.
    pub variant: &'static Variant,
    types: PhantomData<fn(B)>,
}

impl<B> Kernel<B> {
    fn new(variant: &'static Variant) -> Kernel<B> {
        Kernel { variant, types: PhantomData }
    }
}

/// All that variants are made of, once: there are hundreds of them.
static SOURCE: &str = include_str!(concat!(env!("OUT_DIR"), "/source.wgsl"));

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
