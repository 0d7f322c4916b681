// Sum and maximum over a workgroup; every lane gets the result.
#import lanes

var<workgroup> cells: array<f32, LANES>;

#ifdef LANES_SUBGROUP
fn sum_all(lane: Lane, v: f32) -> f32 {
    let part = subgroupAdd(v);
    if lane.within == 0u {
        cells[lane.subgroup] = part;
    }
    workgroupBarrier();
    var sum = cells[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        sum += cells[i];
    }
    workgroupBarrier();
    return sum;
}

fn max_all(lane: Lane, v: f32) -> f32 {
    let part = subgroupMax(v);
    if lane.within == 0u {
        cells[lane.subgroup] = part;
    }
    workgroupBarrier();
    var top = cells[0];
    for (var i = 1u; i < lane.subgroups; i++) {
        top = max(top, cells[i]);
    }
    workgroupBarrier();
    return top;
}
#else
fn sum_all(lane: Lane, v: f32) -> f32 {
    cells[lane.index] = v;
    workgroupBarrier();
    for (var d = LANES / 2u; d > 0u; d >>= 1u) {
        if lane.index < d {
            cells[lane.index] += cells[lane.index + d];
        }
        workgroupBarrier();
    }
    let sum = cells[0];
    workgroupBarrier();
    return sum;
}

fn max_all(lane: Lane, v: f32) -> f32 {
    cells[lane.index] = v;
    workgroupBarrier();
    for (var d = LANES / 2u; d > 0u; d >>= 1u) {
        if lane.index < d {
            cells[lane.index] = max(cells[lane.index], cells[lane.index + d]);
        }
        workgroupBarrier();
    }
    let top = cells[0];
    workgroupBarrier();
    return top;
}
#endif
