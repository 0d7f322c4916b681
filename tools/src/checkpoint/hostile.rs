//! Tests: PyTorch files that are damaged, or written to do harm.

use proptest::prelude::*;

use super::pickle::state_dict;
use super::tensor::View;
use super::torch::tensors;

/// A ZIP archive of uncompressed files.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let (local, size) = (out.len() as u32, data.len() as u32);
        // Version, flags, method, time, date, checksum (unused here), sizes, lengths of name and extra field.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend([size, size].iter().flat_map(|n| n.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(0x0403_4b50u32.to_le_bytes());
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(0x0201_4b50u32.to_le_bytes());
        directory.extend([20, 0]);
        directory.extend(&common);
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(local.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size, count) = (out.len() as u32, directory.len() as u32, (files.len() as u16).to_le_bytes());
    out.extend(directory);
    out.extend(0x0605_4b50u32.to_le_bytes());
    out.extend([0; 4]);
    out.extend([count, count].concat());
    out.extend([size, start].iter().flat_map(|n| n.to_le_bytes()));
    out.extend([0, 0]);
    out
}

/// Pickled pieces.
fn text(s: &str) -> Vec<u8> {
    [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: i32) -> Vec<u8> {
    [&b"J"[..], &n.to_le_bytes()].concat()
}

fn ints(list: &[i32]) -> Vec<u8> {
    [&b"("[..], &list.iter().flat_map(|&n| int(n)).collect::<Vec<_>>(), b"t"].concat()
}

/// A tensor of f32 over storage `0` of `elements`.
fn tensor(elements: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let storage = [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &int(elements), b"tQ"].concat();
    let rest = [int(offset), ints(shape), ints(strides)].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], &rest, b"\x89ccollections\nOrderedDict\n)RtR"].concat()
}

/// A state dict with one item.
fn dict(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", &text("w")[..], value, b"s."].concat()
}

fn archive(pickle: &[u8], data: &[f32]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", bytemuck::cast_slice(data))])
}

fn error(file: &[u8]) -> String {
    tensors(file, 0).expect_err("refused")
}

#[test]
fn a_transposed_window_is_read_as_pickled() {
    let file = archive(&dict(&tensor(8, 1, &[2, 3], &[1, 2])), &[0., 1., 2., 3., 4., 5., 6., 7.]);
    let list = tensors(&file, 0).expect("sound");
    let (name, t) = &list[0];
    let mut out = [0.0; 6];
    View::new(t, None).and_then(|v| v.read(t, &file, &mut out)).expect("a matrix of floats");
    assert_eq!((*name, out), ("w", [1., 3., 5., 2., 4., 6.]));
}

#[test]
fn windows_beyond_their_storage_are_refused() {
    let data = [0.0; 8];
    for (elements, offset, shape, strides) in [
        (8, 3, [2, 3], [3, 1]),                      // one too far
        (100, 8, [1, 1], [1, 1]),                    // the storage lies about its length
        (8, 0, [i32::MAX, i32::MAX], [i32::MAX, 1]), // the product overflows
        (8, 0, [2, 0], [1, 1]),                      // empty
        (8, i32::MAX, [1, 1], [1, 1]),
        (8, 0, [1 << 20, 1 << 20], [0, 0]), // one element, many times
    ] {
        let message = error(&archive(&dict(&tensor(elements, offset, &shape, &strides)), &data));
        assert!(message.contains("\"w\"") && message.contains("beyond its data"), "{message}");
    }
    let message = error(&archive(&dict(&tensor(8, -1, &[1], &[1])), &data));
    assert!(message.contains("a size is -1"), "{message}");
    let message = error(&zip(&[("a/data.pkl", &dict(&tensor(8, 0, &[1], &[1])))]));
    assert!(message.contains("is missing or compressed"), "{message}");
}

#[test]
fn nothing_is_called() {
    for call in [&b"cos\nsystem\n(X\x04\x00\x00\x00echotR"[..], b"cbuiltins\neval\n", b"\x8c\x05posix\x8c\x06system\x93"] {
        let message = error(&archive(&dict(call), &[]));
        assert!(message.contains("nothing was executed"), "{message}");
    }
    // Instructions that build arbitrary objects.
    for op in [&b"\x81"[..], b"i", b"o", b"\x92", b"\x82\x01", b"P1\n", b"\x97"] {
        let message = error(&archive(&dict(op), &[]));
        assert!(message.contains("is not one that saving tensors uses"), "{message}");
    }
}

#[test]
fn damaged_pickles_are_refused() {
    let shared_storage = |n| ints(&vec![1; n]);
    let many_axes =
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &tensor(8, 0, &[1], &[1])[..], &int(0), &shared_storage(9), &shared_storage(9), b"tR"];
    for pickle in [
        &b""[..],
        b".",
        b"N.",
        b"\x80\x02}X\xff\xff\xff\xffw", // a name longer than the file
        b"}h\x07.",                     // a reference to nothing
        b"}j\xff\xff\xff\xff.",
        b"}(N.",                                           // the result hides below a mark
        b"u.",                                             // no mark
        b"}(NuN.",                                         // a key without value
        b"N)R.",                                           // calling nothing
        b"}\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff.", // a number of nine bytes
        &dict(&many_axes.concat()),
        &dict(b"N"),
        &dict(b"}"),
        &[b"}".repeat(5), b"q\x00s".to_vec(), b".".to_vec()].concat(),
    ] {
        assert!(state_dict(pickle).is_err(), "{pickle:?}");
    }
}

/// A dictionary inside itself, and depth without end: neither is followed.
#[test]
fn recursion_does_no_harm() {
    let own = b"\x80\x02}q\x00X\x01\x00\x00\x00wh\x00s.";
    assert!(state_dict(own).expect_err("refused").contains("not a tensor"));
    let deep = [b"N".to_vec(), b"\x85".repeat(4 << 20), b".".to_vec()].concat();
    assert!(state_dict(&deep).is_err());
}

#[test]
fn repeated_names_are_refused_before_they_cost_memory() {
    // A million items that share one name of ten thousand bytes.
    let name = text(&"n".repeat(10_000));
    let items =
        [&b"\x80\x02}q\x01"[..], &name, b"q\x02", &tensor(8, 0, &[1], &[1]), b"q\x03s(", &b"h\x02h\x03".repeat(1 << 20), b"u."].concat();
    assert!(state_dict(&items).expect_err("refused").contains("twice"));
}

#[test]
fn other_formats_are_named() {
    assert!(error(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("before 1.6"));
    assert!(error(b"not a zip").contains("complete ZIP"));
    assert!(error(&zip(&[("a/weights", b"x")])).contains("data.pkl"));
    assert!(error(&zip(&[("a/data.pkl", b"}."), ("a/byteorder", b"big")])).contains("big-endian"));
    let mut compressed = zip(&[("a/data.pkl", b"}.")]);
    let central = compressed.windows(4).position(|w| w == 0x0201_4b50u32.to_le_bytes()).expect("there");
    compressed[central + 10] = 8;
    assert!(error(&compressed).contains("compressed"));
}

/// Archives beyond 4 GiB keep sizes and offsets in 64-bit fields; small ones may as well.
#[test]
fn zip64_is_read() {
    let pickle = dict(&tensor(2, 0, &[2], &[1]));
    let narrow = archive(&pickle, &[1.5, -2.5]);
    let at = |signature: u32| narrow.windows(4).position(|w| w == signature.to_le_bytes()).expect("there");
    let (start, end) = (at(0x0201_4b50), at(0x0605_4b50));
    let mut wide = narrow[..start].to_vec();
    let mut rest = &narrow[start..end];
    while !rest.is_empty() {
        let name = usize::from(u16::from_le_bytes([rest[28], rest[29]]));
        let (head, tail) = rest.split_at(46 + name);
        let mut head = head.to_vec();
        let fields = [&head[24..28], &[0; 4], &head[20..24], &[0; 4], &head[42..46], &[0; 4]].concat();
        (20..28).chain(42..46).for_each(|i| head[i] = 0xff);
        head[30] = 28;
        wide.extend([&head[..], &[1, 0, 24, 0], &fields].concat());
        rest = tail;
    }
    let (end64, length) = (wide.len() as u64, (wide.len() - start) as u64);
    wide.extend([&0x0606_4b50u32.to_le_bytes()[..], &44u64.to_le_bytes(), &[0; 12], &3u64.to_le_bytes(), &3u64.to_le_bytes()].concat());
    wide.extend([length.to_le_bytes(), (start as u64).to_le_bytes()].concat());
    wide.extend([&0x0706_4b50u32.to_le_bytes()[..], &[0; 4], &end64.to_le_bytes(), &[1, 0, 0, 0]].concat());
    wide.extend([&0x0605_4b50u32.to_le_bytes()[..], &[0; 4], &[0xff; 12], &[0, 0]].concat());
    let (found, expected) = (tensors(&wide, 0).expect("sound"), tensors(&narrow, 0).expect("sound"));
    assert_eq!(found, expected);
}

fn published() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/jetmoe_k3/pytorch_model.bin");
    std::fs::read(path).expect("a golden checkpoint")
}

proptest! {
    /// Whatever is changed in a real file, reading it ends in an error or in tensors that lie within the file.
    #[test]
    fn no_change_leads_outside(cut in prop::option::weighted(0.2, any::<prop::sample::Index>()), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut file = published();
        // Half of the edits go to the tables at the beginning and at the end, where they matter.
        for (i, (at, byte)) in edits.iter().enumerate() {
            let n = file.len();
            let at = match i % 4 { 0 => at.index(6000), 1 => n - 1 - at.index(4000), _ => at.index(n) };
            file[at] = *byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        for (_, t) in tensors(&file, 0).unwrap_or_default() {
            for part in [None, Some(0)] {
                if let Some(view) = View::new(&t, part) {
                    let _read_or_refused = view.read(&t, &file, &mut vec![0.0; view.rows * view.cols]);
                }
            }
        }
    }
}
