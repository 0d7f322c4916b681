// Sum over the sixteen column slices of a product: lane = 4 · slice + quad.
#import lanes
#import dot

var<workgroup> slices: array<Sums, 64>;

// The result is valid in lanes 0 .. 4 · PANELS: lane = 4 · panel + quad.
fn sum_slices(lane: Lane, v: Sums) -> vec4f {
    let n = number(lane);
    var sum = v;
#ifdef LANES_SUBGROUP
    for (var m = 4u; m < min(lane.size, 64u); m <<= 1u) {
        sum += shuffle(sum, m);
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
    var total = vec4f(0.0);
    if n < 4u * PANELS {
        for (var i = 0u; i < parts; i++) {
#ifdef PANELS_FOUR
            total += slices[i * 4u + (n & 3u)][n >> 2u];
#else
            total += slices[i * 4u + n];
#endif
        }
    }
    return total;
}

#ifdef LANES_SUBGROUP
fn shuffle(v: Sums, m: u32) -> Sums {
#ifdef PANELS_FOUR
    return Sums(subgroupShuffleXor(v[0], m), subgroupShuffleXor(v[1], m), subgroupShuffleXor(v[2], m), subgroupShuffleXor(v[3], m));
#else
    return subgroupShuffleXor(v, m);
#endif
}
#endif
