//! PyTorch's files (`*.bin`): a ZIP archive with a pickled table of tensors and one file for each storage. No pickle code is executed.

use std::collections::HashMap;
use std::ops::Range;

use super::pickle::{self, Window};
use super::tensor::Tensor;
use super::zip;

/// The tensors of the `index`-th file. Errors are sentences about the file, without its name.
pub(super) fn tensors(file: &[u8], index: usize) -> Result<Vec<(&str, Tensor)>, String> {
    if file.first() == Some(&0x80) {
        return Err("it is in PyTorch's format from before 1.6; load and save it once with a newer PyTorch".into());
    }
    let entries = zip::entries(file).ok_or("it is not a complete ZIP archive; is the download complete?")?;
    let table = entries.iter().find_map(|e| Some((e.name.strip_suffix("data.pkl")?, e)));
    let (folder, table) = table.ok_or("it has no table of tensors (data.pkl)")?;
    let stored: HashMap<&str, Range<usize>> =
        entries.iter().filter_map(|e| Some((e.name.strip_prefix(folder)?, e.bytes.clone()?))).collect();
    let table = table.bytes.clone().ok_or("its table of tensors is compressed; save it again with torch.save")?;
    if stored.get("byteorder").is_some_and(|r| &file[r.clone()] != b"little") {
        return Err("it was written on a big-endian machine".into());
    }
    pickle::state_dict(&file[table])?.into_iter().map(|(name, window)| Ok((name, place(name, window, &stored, index)?))).collect()
}

/// Checks that every element of the window lies within its storage.
fn place(name: &str, w: Window<'_>, stored: &HashMap<&str, Range<usize>>, file: usize) -> Result<Tensor, String> {
    let storage = stored.get(format!("data/{}", w.storage).as_str());
    let storage = storage.ok_or_else(|| format!("the data of tensor {name:?} is missing or compressed"))?;
    let size = w.dtype.bitsize() / 8;
    let last =
        w.shape.iter().zip(&w.strides).try_fold(w.offset, |at, (&n, &stride)| at.checked_add(n.checked_sub(1)?.checked_mul(stride)?));
    let held = w.elements.min(storage.len() / size);
    // A stride of zero would let a small file claim any size.
    let claimed = w.shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis));
    if last.is_none_or(|last| last >= held) || claimed.is_none_or(|n| n > held) {
        let shape = &w.shape;
        return Err(format!("tensor {name:?} of shape {shape:?} reaches beyond its data of {held} elements, or is empty"));
    }
    Ok(Tensor { dtype: w.dtype, shape: w.shape, strides: w.strides, file, start: storage.start + w.offset * size })
}
