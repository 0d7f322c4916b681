//! Finding the entries of a ZIP archive in a mapped file (ZIP64 included). PyTorch stores its entries uncompressed, so they are used
//! where they lie.

use std::ops::Range;

/// One file in the archive.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where its bytes are; `None` when they are compressed or encrypted.
    pub(super) bytes: Option<Range<usize>>,
}

const END: u32 = 0x0605_4b50;
const END_LENGTH: usize = 22;
const END64_LOCATOR: u32 = 0x0706_4b50;
const END64: u32 = 0x0606_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// In a 32-bit field: the value is in the ZIP64 extra field.
const IN_EXTRA: u64 = 0xffff_ffff;

/// Every entry, in the order of the central directory. `None` when the archive is truncated or inconsistent.
pub(super) fn entries(file: &[u8]) -> Option<Vec<Entry>> {
    let (mut at, count) = directory(file)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let head = file.get(at..)?;
        if u32_at(head, 0)? != CENTRAL {
            return None;
        }
        let (flags, method) = (u16_at(head, 8)?, u16_at(head, 10)?);
        let (name, extra, comment) = (u16_at(head, 28)?, u16_at(head, 30)?, u16_at(head, 32)?);
        let (name_end, extra_end) = (46 + usize::from(name), 46 + usize::from(name) + usize::from(extra));
        let wide = zip64_fields(head.get(name_end..extra_end)?);
        let mut wide = wide.chunks_exact(8);
        let mut field = |value: u64| if value == IN_EXTRA { u64_at(wide.next()?, 0) } else { Some(value) };
        // The extra field lists what did not fit, in this order.
        let _unpacked = field(u32_at(head, 24)?.into())?;
        let packed = field(u32_at(head, 20)?.into())?;
        let local = field(u32_at(head, 42)?.into())?;
        let name = std::str::from_utf8(head.get(46..name_end)?).ok()?.to_owned();
        let plain = method == 0 && flags & 1 == 0;
        let bytes = if plain { Some(data(file, local, packed)?) } else { None };
        out.push(Entry { name, bytes });
        at = at.checked_add(extra_end)?.checked_add(usize::from(comment))?;
    }
    Some(out)
}

/// Where the central directory begins and how many entries it has.
fn directory(file: &[u8]) -> Option<(usize, u64)> {
    let last = file.len().checked_sub(END_LENGTH)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let is_end = |&at: &usize| {
        let comment = u16_at(file, at + 20).map(usize::from);
        u32_at(file, at) == Some(END) && comment.is_some_and(|n| at + END_LENGTH + n == file.len())
    };
    let end = (first..=last).rev().find(is_end)?;
    let locator = end.checked_sub(20).filter(|&at| u32_at(file, at) == Some(END64_LOCATOR));
    let (start, count) = match locator {
        None => (u32_at(file, end + 16)?.into(), u16_at(file, end + 10)?.into()),
        Some(at) => {
            let end64 = file.get(usize::try_from(u64_at(file, at + 8)?).ok()?..)?;
            if u32_at(end64, 0)? != END64 {
                return None;
            }
            (u64_at(end64, 48)?, u64_at(end64, 32)?)
        }
    };
    Some((usize::try_from(start).ok()?, count))
}

/// The contents of the ZIP64 extra field among all extra fields; empty when there is none.
fn zip64_fields(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((field, rest)) = extra[4..].split_at_checked(len.into()) else { break };
        if id == 1 {
            return field;
        }
        extra = rest;
    }
    &[]
}

/// The bytes of a stored entry whose local header is at `local`.
fn data(file: &[u8], local: u64, len: u64) -> Option<Range<usize>> {
    let head = file.get(usize::try_from(local).ok()?..)?;
    if u32_at(head, 0)? != LOCAL {
        return None;
    }
    let skip = 30 + usize::from(u16_at(head, 26)?) + usize::from(u16_at(head, 28)?);
    let start = usize::try_from(local).ok()?.checked_add(skip)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    (end <= file.len()).then_some(start..end)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
