// Merges the slices' sorted candidates and adds up log Σ exp: one workgroup.
#import latch
const LANES = 64u;
#import sum_max
#import best

const SLICES = 1024u;

struct Params {
    slices: u32, // at most SLICES
    count: u32, // candidates wanted, and of each slice
}

struct Result {
    top: f32, // largest scaled logit
    sum: f32, // Σ exp(scaled logit - top)
    finite: f32, // 1 if all logits are
    padding: f32,
    best: array<Best>, // [count]
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> candidates: array<Best>; // [slices, count]
@group(0) @binding(1) var<storage, read> stats: array<vec4f>; // [slices]
@group(0) @binding(2) var<storage, read_write> result: Result;

var<workgroup> cursors: array<u32, SLICES>; // next candidate of each slice

@compute @workgroup_size(64)
fn main(lane: Lane) {
    if stalled() {
        return;
    }
    var top = -3.4028234e38;
    var bad = 0.0;
    for (var s = lane.index; s < params.slices; s += LANES) {
        top = max(top, stats[s].x);
        bad = max(bad, 1.0 - stats[s].z);
        cursors[s] = 0u;
    }
    top = max_all(lane, top);
    bad = max_all(lane, bad);
    var sum = 0.0;
    for (var s = lane.index; s < params.slices; s += LANES) {
        sum += stats[s].y * exp(stats[s].x - top);
    }
    sum = sum_all(lane, sum);
    if lane.index == 0u {
        result.top = top;
        result.sum = sum;
        result.finite = 1.0 - bad;
    }

    for (var c = 0u; c < params.count; c++) {
        var mine = NOBODY;
        var slice = 0u;
        for (var s = lane.index; s < params.slices; s += LANES) {
            if cursors[s] < params.count {
                let candidate = candidates[s * params.count + cursors[s]];
                if better(candidate, mine) {
                    mine = candidate;
                    slice = s;
                }
            }
        }
        let chosen = best_all(lane, mine);
        if chosen.id == mine.id {
            cursors[slice]++;
            result.best[c] = chosen;
        }
    }
}
