// The best (value, id) of a workgroup: larger values first, among equals the lower id.
#import lanes

struct Best {
    value: f32,
    id: u32,
}

const NOBODY = Best(-3.4028234e38, 0xffffffffu);

fn better(a: Best, b: Best) -> bool {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

var<workgroup> bests: array<Best, LANES>;

#ifdef LANES_SUBGROUP
fn best_all(lane: Lane, mine: Best) -> Best {
    let value = subgroupMax(mine.value);
    let id = subgroupMin(select(0xffffffffu, mine.id, mine.value == value));
    if lane.within == 0u {
        bests[lane.subgroup] = Best(value, id);
    }
    workgroupBarrier();
    var top = bests[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        let other = bests[i];
        if better(other, top) {
            top = other;
        }
    }
    workgroupBarrier();
    return top;
}
#else
fn best_all(lane: Lane, mine: Best) -> Best {
    bests[lane.index] = mine;
    workgroupBarrier();
    for (var d = LANES / 2u; d > 0u; d >>= 1u) {
        if lane.index < d {
            let other = bests[lane.index + d];
            if better(other, bests[lane.index]) {
                bests[lane.index] = other;
            }
        }
        workgroupBarrier();
    }
    let top = bests[0];
    workgroupBarrier();
    return top;
}
#endif
