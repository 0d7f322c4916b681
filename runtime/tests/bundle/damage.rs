//! Accidents: files cut short, lengthened, with flipped bits, or not bundles at all.

use hotset::bundle::{BLOCK, Bundle, MAX_HEADER};
use hotset::{Category, Error};

use crate::fixture::{Parts, assemble, header_end, refusal, tiny, use_everything};

#[test]
fn every_truncation_is_noticed() {
    let file = tiny();
    let end = header_end(&file);
    let text = file[..end].iter().rposition(|&b| b != b' ').unwrap() + 1;
    let mut lengths: Vec<usize> = (0..=64).chain(text - 64..=text + 64).chain((0..file.len()).step_by(509)).collect();
    for tensor in Parts::of(&file).header.as_object().unwrap().values().filter_map(|t| t.get("data_offsets")) {
        let begin = end + tensor[0].as_u64().unwrap() as usize;
        lengths.extend([begin - 1, begin, begin + 1]);
    }
    lengths.extend([end - 1, end, end + 1, file.len() - 1]);
    for n in lengths {
        let reason = refusal(&file[..n]);
        assert!(reason.contains(if n < end { "header: " } else { "data: " }), "{n} bytes: {reason}");
    }
}

#[test]
fn a_tail_is_noticed() {
    for extra in [1, BLOCK] {
        let mut file = tiny();
        file.resize(file.len() + extra, 0);
        assert!(refusal(&file).contains("data: "), "{extra}");
    }
}

/// Flips in text and hashes' keys may go unnoticed at open, but nothing that changes the model survives `verify`.
#[test]
fn no_flipped_bit_of_the_header_changes_the_model_unnoticed() {
    let file = tiny();
    let end = header_end(&file);
    let original = Bundle::from_bytes(&file).unwrap();
    let text = file[..end].iter().rposition(|&b| b != b' ').unwrap() + 1;
    let mut opened = 0;
    for at in (0..text + 8).chain((text..end).step_by(61)) {
        for bit in 0..8 {
            let mut bad = file.clone();
            bad[at] ^= 1 << bit;
            let Ok(bundle) = Bundle::from_bytes(&bad) else { continue };
            use_everything(&bundle);
            opened += 1;
            if bundle.verify(|_| ()).is_ok() {
                let (found, meant) = (bundle.manifest(), original.manifest());
                assert_eq!((&found.plan, &found.tensors), (&meant.plan, &meant.tensors), "bit {bit} of byte {at}");
            }
        }
    }
    assert!(opened > 100, "only {opened} flips opened: the test no longer reaches verify");
}

#[test]
fn verify_names_the_region_of_a_flipped_bit() {
    let file = tiny();
    let end = header_end(&file);
    let tensors = Parts::of(&file).header;
    for (name, region) in [
        ("embedding", "dense"),
        ("up", "dense"),
        ("tokenizer.json", "tokenizer"),
        ("experts.0", "experts"),
        ("experts.1", "experts"),
        ("queries.0", "queries"),
    ] {
        let offsets = &tensors[name]["data_offsets"];
        let (a, b) = (offsets[0].as_u64().unwrap() as usize, offsets[1].as_u64().unwrap() as usize);
        for at in [a, (a + b) / 2, b - 1] {
            let mut bad = file.clone();
            bad[end + at] ^= 0x10;
            let error = Bundle::from_bytes(&bad).unwrap().verify(|_| ()).unwrap_err().to_string();
            assert!(error.contains(&format!("region {region:?}")), "{name}: {error}");
        }
    }
}

#[test]
fn verify_notices_a_changed_plan_and_a_changed_hash() {
    for (pointer, raw) in [("/plan/steps/0/scale", "2.0"), ("/hashes/experts", "\"00\""), ("/fingerprint", "\"\"")] {
        let bad = Parts::of(&tiny()).with_manifest(pointer, raw);
        let error = Bundle::from_bytes(&bad).unwrap().verify(|_| ()).unwrap_err().to_string();
        assert!(error.contains("region \"plan\""), "{pointer}: {error}");
    }
}

#[test]
fn header_lengths_are_believed_only_within_the_file_and_the_limit() {
    let mut file = tiny();
    for (len, reason) in [
        (u64::MAX, "over the limit"),
        (u64::MAX - 7, "over the limit"),
        (1 << 63, "over the limit"),
        (MAX_HEADER as u64 + 1, "over the limit"),
        (MAX_HEADER as u64, "the file has"),
        (file.len() as u64, "the file has"),
        (0, "not at a multiple"),
        (1, "not at a multiple"),
    ] {
        file[..8].copy_from_slice(&len.to_le_bytes());
        let found = refusal(&file);
        assert!(found.contains("header: ") && found.contains(reason), "{len}: {found}");
    }
}

#[test]
fn headers_that_are_no_text_or_no_json_are_refused() {
    let mut file = tiny();
    file[9] = 0xFF;
    assert!(refusal(&file).contains("header: invalid utf-8"));
    for text in ["", "{", "[]", "null", "{} {}", "{\"a\":1}", "\0"] {
        assert!(refusal(&assemble(text, &[])).contains("header: "), "{text:?}");
    }
}

#[test]
fn files_that_are_no_bundles_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.hotset");
    std::fs::write(&path, []).unwrap();
    assert!(Bundle::open(&path).unwrap_err().to_string().contains("the file has only 0 bytes"));
    for (path, reason) in [(dir.path().to_owned(), "is a directory"), (dir.path().join("absent.hotset"), "No such file")] {
        let error = Bundle::open(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.category() == Category::System);
        assert!(error.to_string().contains(reason) || cfg!(windows), "{error}");
    }
}

#[test]
fn a_checkpoint_is_told_apart_from_a_bundle() {
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![2, 2], &[1, 2, 3, 4]).unwrap();
    let checkpoint = safetensors::serialize([("w", tensor)], None).unwrap();
    assert!(refusal(&checkpoint).contains("hotset convert"));
    assert!(refusal(&assemble("{}", &[])).contains("no hotset manifest"));
    assert!(refusal(&assemble(r#"{"__metadata__":{"format":"pt"}}"#, &[])).contains("no hotset manifest"));
}
