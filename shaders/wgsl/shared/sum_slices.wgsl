// Sum over the sixteen column slices of a product: lane = 4 · slice + quad.
#import lanes

var<workgroup> slices: array<vec4f, 64>;

// The result is valid in lanes 0..4, one for each quad.
fn sum_slices(lane: Lane, v: vec4f) -> vec4f {
    let n = number(lane);
    var sum = v;
#ifdef LANES_SUBGROUP
    for (var m = 4u; m < min(lane.size, 64u); m <<= 1u) {
        sum += subgroupShuffleXor(sum, m);
    }
    if lane.within < 4u {
        slices[lane.subgroup * 4u + lane.within] = sum;
    }
    let parts = lane.subgroups;
#else
    slices[n] = sum;
    let parts = 16u;
#endif
    workgroupBarrier();
    sum = vec4f(0.0);
    if n < 4u {
        for (var i = 0u; i < parts; i++) {
            sum += slices[i * 4u + n];
        }
    }
    return sum;
}
