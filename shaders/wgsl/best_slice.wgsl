// The best tokens of one slice of the vocabulary, and the slice's share of log Σ exp: a workgroup per slice.
#import latch
const LANES = 64u;
#import sum_max
#import best

struct Params {
    vocab: u32,
    slice: u32, // tokens of a slice
    count: u32, // candidates of each slice
    inverse_temperature: f32,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [V]
@group(0) @binding(1) var<storage, read_write> candidates: array<Best>; // [slices, count], best first
@group(0) @binding(2) var<storage, read_write> stats: array<vec4f>; // [slices]: largest scaled logit, sum, 1 if all are finite

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let start = group.x * params.slice;
    let end = min(start + params.slice, params.vocab);
    var top = -3.4028234e38;
    var bad = 0.0;
    for (var i = start + lane.index; i < end; i += LANES) {
        let v = logits[i];
        top = max(top, v * params.inverse_temperature);
        // Comparisons with NaN may be optimised away; bits may not.
        if (bitcast<u32>(v) & 0x7f800000u) == 0x7f800000u {
            bad = 1.0;
        }
    }
    top = max_all(lane, top);
    bad = max_all(lane, bad);
    var sum = 0.0;
    for (var i = start + lane.index; i < end; i += LANES) {
        sum += exp(logits[i] * params.inverse_temperature - top);
    }
    sum = sum_all(lane, sum);
    if lane.index == 0u {
        stats[group.x] = vec4f(top, sum, 1.0 - bad, 0.0);
    }

    var mine = next(start + lane.index, end, Best(3.4028234e38, 0u));
    for (var c = 0u; c < params.count; c++) {
        let chosen = best_all(lane, mine);
        if lane.index == 0u {
            candidates[group.x * params.count + c] = chosen;
        }
        if chosen.id == mine.id {
            mine = next(start + lane.index, end, chosen);
        }
    }
}

// The lane's best token after `last`.
fn next(base: u32, end: u32, last: Best) -> Best {
    var mine = NOBODY;
    for (var i = base; i < end; i += LANES) {
        let candidate = Best(logits[i], i);
        if better(last, candidate) && better(candidate, mine) {
            mine = candidate;
        }
    }
    return mine;
}
