//! Budgets that change while a step is under way.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;
use crate::support;

/// Setting a budget and asking how things stand does not wait for the step under way, and the budget comes into force all the same.
#[test]
fn nobody_waits_for_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 101, Codec::Q8));
    let paging = |budget| CpuPaging { budget, ..CpuPaging::default() };
    let model = CpuModel::paged(bundle, Some(1), &paging(1 << 30)).unwrap();
    let mut run = model.start(RunOptions::new(20)).unwrap();
    run.forward(&[1, 2, 3], Want::Nothing).unwrap();
    let before = model.report().paging.unwrap();
    {
        // As a step does.
        let held = model.shared.hold().unwrap();
        model.set_budget(1 << 29).unwrap();
        assert_eq!(model.report().paging.unwrap(), Paging { budget: 1 << 29, ..before.clone() });
        assert!(model.set_budget(before.least - 1).is_err());
        assert_eq!(held.options().budget, 1 << 30);
    }
    // The next step looks.
    assert_eq!(model.shared.hold().unwrap().options().budget, 1 << 29);
    {
        let _held = model.shared.hold().unwrap();
        model.set_budget(1 << 28).unwrap();
    }
    // So does whoever asks, and whoever ends a pass.
    assert_eq!(model.report().paging.unwrap().budget, 1 << 28);
    run.forward(&[4], Want::Nothing).unwrap();
    assert_eq!(model.shared.hold().unwrap().options().budget, 1 << 28);
}
