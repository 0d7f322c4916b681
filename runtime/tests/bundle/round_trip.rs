//! What is written comes back, for us and for any other safetensors reader.

use hotset::bundle::{BLOCK, Bundle, RecordLayout, RecordView, Text};
use hotset::codec::{ALIGN, Codec, Matrix};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

use crate::fixture::{TOKENIZER, header_end, random_manifest, tiny, tiny_manifest, use_everything, write};
use crate::support::{Random, plan};

/// A plan whose every matrix and pool has a codec of its own choosing.
fn mixed(seed: u64) -> hotset::bundle::Manifest {
    let mut random = Random::new(seed);
    let mut manifest = random_manifest(plan(seed, Codec::F32));
    for info in manifest.tensors.values_mut() {
        if let hotset::bundle::TensorInfo::Matrix { codec, .. } = info {
            *codec = random.pick(&Codec::ALL);
        }
    }
    manifest.plan.pools.iter_mut().for_each(|p| p.codec = random.pick(&Codec::ALL));
    manifest
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn every_tensor_comes_back(seed: u64, tokenizer in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3000))) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.hotset");
        let mut manifest = mixed(seed);
        manifest.text = tokenizer.as_ref().map(|t| Text { bos: Some(t.len() as u32), ..Text::default() });
        let written = write(&path, manifest.clone(), tokenizer.as_deref(), seed);
        let bundle = Bundle::open(&path).unwrap();

        prop_assert_eq!(&bundle.manifest().plan, &manifest.plan);
        prop_assert_eq!(&bundle.manifest().tensors, &manifest.tensors);
        prop_assert_eq!(&bundle.manifest().text, &manifest.text);
        prop_assert_eq!(bundle.tokenizer(), tokenizer.as_deref());
        for (name, info) in &manifest.tensors {
            match info.layout() {
                Some(layout) => prop_assert!(same(&bundle.matrix(name).unwrap(), &Matrix::new(layout, &written[name]).unwrap()), "{}", name),
                None => prop_assert!(written[name].starts_with(bytemuck::cast_slice(bundle.vector(name).unwrap())), "{}", name),
            }
        }
        for (i, pool) in manifest.plan.pools.iter().enumerate() {
            let layout = RecordLayout::of(pool, manifest.plan.width).unwrap();
            prop_assert_eq!(bundle.record_layout(i), &layout);
            for r in 0..pool.records {
                prop_assert_eq!(bundle.record(i, r), &written[&format!("{}.{r}", pool.name)][..]);
                prop_assert!(bundle.record_range(i, r).start.is_multiple_of(BLOCK) && layout.bytes.is_multiple_of(BLOCK));
                let view = RecordView::new(&layout, bundle.record(i, r)).unwrap();
                for &(role, matrix, at) in &layout.matrices {
                    prop_assert!(at.is_multiple_of(ALIGN));
                    let stored = Matrix::new(matrix, &bundle.record(i, r)[at..at + matrix.bytes()]).unwrap();
                    prop_assert!(same(&view.matrix(role).unwrap(), &stored));
                }
            }
        }
        bundle.verify(|_| ()).unwrap();

        let file = std::fs::read(&path).unwrap();
        prop_assert!(header_end(&file).is_multiple_of(BLOCK));
        let copy = Bundle::from_bytes(&file).unwrap();
        prop_assert_eq!(use_everything(&copy), use_everything(&bundle));

        let other = SafeTensors::deserialize(&file).unwrap();
        for (name, bytes) in &written {
            let tensor = other.tensor(name).unwrap();
            let vector = manifest.tensors.get(name).is_some_and(|t| t.layout().is_none());
            prop_assert_eq!(tensor.dtype(), if vector { Dtype::F32 } else { Dtype::U8 });
            prop_assert_eq!(tensor.data(), &bytes[..]);
        }
    }
}

/// Whether two matrices have the same layout and bytes.
fn same(a: &Matrix<'_>, b: &Matrix<'_>) -> bool {
    a.layout() == b.layout() && (0..a.layout().panels()).all(|p| a.words(p) == b.words(p) && a.scales(p) == b.scales(p))
}

#[test]
fn the_tiny_bundle_holds_what_its_manifest_says() {
    let bundle = Bundle::from_bytes(&tiny()).unwrap();
    let (found, meant) = (bundle.manifest(), tiny_manifest());
    assert_eq!(
        (&found.plan, &found.tensors, &found.text, &found.provenance),
        (&meant.plan, &meant.tensors, &meant.text, &meant.provenance)
    );
    assert_eq!(bundle.tokenizer(), Some(TOKENIZER));
    assert_eq!(found.hashes.keys().collect::<Vec<_>>(), ["dense", "experts", "queries", "tokenizer"]);
    assert_eq!(found.fingerprint.len(), 64);
}

#[test]
fn verify_reports_the_whole_file() {
    let file = tiny();
    let mut seen = Vec::new();
    Bundle::from_bytes(&file).unwrap().verify(|at| seen.push(at)).unwrap();
    assert!(seen.is_sorted());
    assert_eq!(seen.last(), Some(&(file.len() as u64)));
}
