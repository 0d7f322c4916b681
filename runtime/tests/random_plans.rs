//! The generator of random bundles must itself make valid ones.

mod support;

use hotset::codec::Codec;
use hotset::plan::{AttentionKind, Part, Work};

#[test]
fn random_plans_are_valid_and_varied() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut seen = [false; 4];
    for seed in 0..64 {
        let bundle = support::bundle(dir.path(), seed, Codec::ALL[seed as usize % 5]);
        for step in &bundle.plan().steps {
            if let Work::Attention(a) = &step.work {
                seen[0] |= a.kind == AttentionKind::StickBreaking && a.q == Part::Expert;
                seen[1] |= a.k == Part::Input && bundle.plan().states[a.state as usize].tied;
                seen[2] |= a.rotation.is_some() && a.q_norm.is_some() && a.window.is_some();
            }
            seen[3] |= matches!(&step.work, Work::Ffn(f) if f.shared.is_some()) && step.routed.is_some();
        }
    }
    assert_eq!(seen, [true; 4]);
}
