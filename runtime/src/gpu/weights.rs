//! Dense tensors on the device: vectors in one buffer, matrices in windows that one binding can span.
//!
//! Matrices that are multiplied with the same input go into one window and one dispatch. What does not fit a binding is cut between panels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hotset_shaders as shaders;

use super::device::{Device, Upload};
use crate::bundle::{Bundle, TensorInfo};
use crate::codec::{ALIGN, Codec, Layout, Matrix, PANEL, encode};
use crate::error::{Error, Result};
use crate::plan::Name;

/// Bytes of a `vec4`, the unit in which kernels count.
pub(super) const VEC4: u64 = 16;

/// Where matrices may be cut when they do not fit a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Between any two panels.
    Panels,
    /// All of them at the same panels.
    Together,
    /// At whole multiples of so many panels.
    Blocks(u32),
}

/// Some panels of some matrices of one codec and width, side by side in one buffer.
pub(super) struct Window {
    pub(super) buffer: wgpu::Buffer,
    pub(super) codec: shaders::Codec,
    /// Chunks of 8 columns in a row.
    pub(super) chunks: u32,
    /// Columns without padding.
    pub(super) columns: u32,
    pub(super) parts: Vec<Part>,
}

/// Consecutive panels of one matrix inside a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Index into the names of the group.
    pub(super) matrix: usize,
    pub(super) first_panel: u32,
    pub(super) panels: u32,
    /// First line and first scales, in vec4.
    pub(super) words: u32,
    pub(super) scales: u32,
}

/// A stored matrix, as in the file or converted.
enum Source<'a> {
    File(Matrix<'a>),
    Converted(Layout, Vec<u8>),
}

impl Source<'_> {
    fn matrix(&self) -> Result<Matrix<'_>> {
        match self {
            Source::File(m) => Ok(*m),
            Source::Converted(layout, bytes) => {
                Matrix::new(*layout, bytes).ok_or_else(|| Error::Device("a converted matrix has a wrong length".into()))
            }
        }
    }
}

/// The dense tensors of a bundle.
pub(super) struct Weights {
    bundle: Arc<Bundle>,
    vectors: wgpu::Buffer,
    /// First element of each vector, in vec4.
    at: HashMap<Name, u32>,
    groups: Mutex<HashMap<Vec<Name>, Arc<Vec<Window>>>>,
}

impl Weights {
    /// Uploads the vectors; matrices follow when they are first asked for.
    pub(super) fn new(device: &Device, bundle: Arc<Bundle>) -> Result<Weights> {
        let mut at = HashMap::new();
        let mut end = 0u64;
        for (name, info) in &bundle.manifest().tensors {
            if let TensorInfo::Vector { len } = info {
                at.insert(name.clone(), units(end)?);
                end += (u64::from(*len) * 4).next_multiple_of(ALIGN as u64);
            }
        }
        let vectors = device.storage("the vectors", end)?;
        let mut upload = Upload::new(device);
        for (name, &first) in &at {
            upload.write(&vectors, u64::from(first) * VEC4, bytemuck::cast_slice(bundle.vector(name)?))?;
        }
        upload.finish()?;
        Ok(Weights { bundle, vectors, at, groups: Mutex::default() })
    }

    /// Buffer of all vectors, each padded with zeros: kernels read biases of whole panels.
    pub(super) fn vectors(&self) -> &wgpu::Buffer {
        &self.vectors
    }

    /// First element of a vector, in vec4.
    pub(super) fn vector(&self, name: &str) -> Result<u32> {
        self.at.get(name).copied().ok_or_else(|| Error::Device(format!("tensor {name:?} is missing")))
    }

    /// Elements of a vector.
    pub(super) fn len(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.bundle.vector(name)?.len()).unwrap_or(u32::MAX))
    }

    pub(super) fn layout(&self, name: &str) -> Result<Layout> {
        Ok(self.bundle.matrix(name)?.layout())
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        self.vectors.size() + groups.values().flat_map(|g| g.iter()).map(|w| w.buffer.size()).sum::<u64>()
    }

    /// The windows that hold these matrices, uploaded at the first call.
    pub(super) fn group(&self, device: &Device, names: &[&str], cut: Cut) -> Result<Arc<Vec<Window>>> {
        let key: Vec<Name> = names.iter().map(|&n| n.to_owned()).collect();
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(windows) = groups.get(&key) {
            return Ok(windows.clone());
        }
        let windows = Arc::new(self.place(device, names, cut)?);
        Ok(groups.entry(key).or_insert(windows).clone())
    }

    fn place(&self, device: &Device, names: &[&str], cut: Cut) -> Result<Vec<Window>> {
        let mut sources = names.iter().map(|n| Ok(Source::File(self.bundle.matrix(n)?))).collect::<Result<Vec<_>>>()?;
        let codecs: Vec<Codec> = names.iter().map(|n| Ok(self.layout(n)?.codec)).collect::<Result<_>>()?;
        if cut == Cut::Together && codecs.iter().any(|c| *c != codecs[0]) {
            // One kernel reads them together, so they need one codec.
            sources = sources.iter().map(|s| to_f32(s.matrix()?)).collect::<Result<_>>()?;
        }
        let mut rest: Vec<(usize, Matrix<'_>)> =
            sources.iter().map(Source::matrix).collect::<Result<Vec<_>>>()?.into_iter().enumerate().collect();
        let mut windows = Vec::new();
        while let Some(&(_, first)) = rest.first() {
            let alike = |m: &Matrix<'_>| (m.layout().codec, m.layout().cols) == (first.layout().codec, first.layout().cols);
            let (now, later) = rest.into_iter().partition(|(_, m)| alike(m));
            rest = later;
            self.windows(device, now, cut, &mut windows)?;
        }
        Ok(windows)
    }

    /// Windows for matrices of one codec and width.
    fn windows(&self, device: &Device, matrices: Vec<(usize, Matrix<'_>)>, cut: Cut, out: &mut Vec<Window>) -> Result<()> {
        let size = |m: &Matrix<'_>, panels: usize| {
            let l = m.layout();
            (panels * l.panel_bytes()).next_multiple_of(ALIGN) + (panels * l.panel_scale_bytes()).next_multiple_of(ALIGN)
        };
        let limit = usize::try_from(device.binding).unwrap_or(usize::MAX);
        if matrices.iter().map(|(_, m)| size(m, m.layout().panels())).sum::<usize>() <= limit {
            let all = matrices.iter().map(|&(i, m)| (i, m, 0, m.layout().panels())).collect();
            out.push(window(device, all)?);
            return Ok(());
        }
        let sets = if cut == Cut::Together { vec![matrices] } else { matrices.into_iter().map(|m| vec![m]).collect() };
        for set in sets {
            let layout = set[0].1.layout();
            let per_panel = layout.panel_bytes() + layout.panel_scale_bytes();
            let unit = if let Cut::Blocks(n) = cut { n as usize } else { 1 };
            let step = (limit / set.len()).saturating_sub(2 * ALIGN) / per_panel / unit * unit;
            if step == 0 {
                return Err(Error::Device(format!(
                    "{} rows of {} columns do not fit the {limit} bytes that this GPU binds at once",
                    unit * PANEL,
                    layout.cols
                )));
            }
            for first in (0..layout.panels()).step_by(step) {
                let panels = step.min(layout.panels() - first);
                out.push(window(device, set.iter().map(|&(i, m)| (i, m, first, panels)).collect())?);
            }
        }
        Ok(())
    }
}

/// Uploads some panels (matrix number, matrix, first, how many) into a buffer of their own.
fn window(device: &Device, pieces: Vec<(usize, Matrix<'_>, usize, usize)>) -> Result<Window> {
    let layout = pieces[0].1.layout();
    let mut at = 0;
    let mut copies = Vec::new();
    let mut parts = Vec::new();
    for (matrix, m, first, panels) in pieces {
        let (words, scales) = m.panels(first..first + panels);
        let scales_at = (at + words.len()).next_multiple_of(ALIGN);
        let (first_panel, panels) = (units(first as u64 * VEC4)?, units(panels as u64 * VEC4)?);
        parts.push(Part { matrix, first_panel, panels, words: units(at as u64)?, scales: units(scales_at as u64)? });
        copies.extend([(at, words), (scales_at, scales)]);
        at = (scales_at + scales.len()).next_multiple_of(ALIGN);
    }
    let buffer = device.storage("weights", at as u64)?;
    let mut upload = Upload::new(device);
    for (at, bytes) in copies {
        upload.write(&buffer, at as u64, bytes)?;
    }
    upload.finish()?;
    let (chunks, columns) = (units(layout.padded_cols() as u64 / 8 * VEC4)?, units(layout.cols as u64 * VEC4)?);
    Ok(Window { buffer, codec: codec(layout.codec), chunks, columns, parts })
}

fn to_f32<'a>(m: Matrix<'_>) -> Result<Source<'a>> {
    let Layout { rows, cols, .. } = m.layout();
    let layout = Layout::new(Codec::F32, rows, cols).ok_or_else(|| Error::Device(format!("a matrix of {rows}×{cols} is too large")))?;
    let mut values = vec![0.0; rows * cols];
    values.chunks_mut(cols).enumerate().for_each(|(r, out)| m.row(r, out));
    let mut bytes = vec![0; layout.bytes()];
    encode(layout, &values, &mut bytes);
    Ok(Source::Converted(layout, bytes))
}

/// Bytes as a number of vec4 that kernels can hold.
pub(super) fn units(bytes: u64) -> Result<u32> {
    u32::try_from(bytes / VEC4).map_err(|_| Error::Device(format!("an offset of {bytes} bytes is beyond what kernels can address")))
}

/// Rows including the padding of the last panel.
pub(super) fn padded_rows(rows: u32) -> u32 {
    rows.next_multiple_of(PANEL as u32)
}

/// The kernels' name of a codec.
pub(super) fn codec(codec: Codec) -> shaders::Codec {
    match codec {
        Codec::F32 => shaders::Codec::F32,
        Codec::F16 => shaders::Codec::F16,
        Codec::Bf16 => shaders::Codec::Bf16,
        Codec::Q8 => shaders::Codec::Q8,
        Codec::Q4 => shaders::Codec::Q4,
        Codec::Mxfp4 => shaders::Codec::Mxfp4,
    }
}
