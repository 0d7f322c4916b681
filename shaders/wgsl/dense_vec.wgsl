// Matrix times vector, for each of a few tokens: a workgroup per token and one or four panels.
// Plain: y = scale · activation(W x + b) for up to three matrices. Gated: y = activation(G x + g) ⊙ (U x + u).
#import latch
#import dot
#import segments
#import activation
#import sum_slices

const LANES = 64u;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if stalled() {
        return;
    }
    // Workgroups are folded over x and z where there are more than one dimension holds.
    let first = (select(group.z * groups.x, 0u, params.block > 0u) + group.x) * PANELS;
    // Panels of the blocks before this one.
    let skip = group.z * params.block;
    let token = group.y;
    let n = number(lane);
#ifdef FORM_PLAIN
    let last = select(params.segments[2].panels, params.block, params.block > 0u) - 1u;
#else
    let last = params.segments[0].panels - 1u;
#endif
    if first > last {
        return;
    }
    let base = params.base + token * params.x_stride + group.z * params.block_x;
    var words: vec4u;
    var scales: vec4u;
    for (var p = 0u; p < PANELS; p++) {
        // Panels past the end repeat the last one and are not stored.
        let panel = skip + min(first + p, last);
        let s = segment_of(panel);
        words[p] = words_of(params.segments[s], inside(panel, s));
        scales[p] = scales_of(params.segments[s], inside(panel, s));
    }
    let sum = sum_slices(lane, dot_panels(words, scales, params.chunks, base, n));
    let stored = n < 4u * PANELS && first + (n >> 2u) <= last;
    let panel = skip + first + (n >> 2u);
#ifdef FORM_PLAIN
    if stored {
        let s = segment_of(panel);
        let segment = params.segments[s];
        let quad = inside(panel, s) * 4u + (n & 3u);
        y[segment.out + token * segment.stride + quad] = params.scale * activate(sum + bias_of(segment, quad));
    }
#else
    let gate = params.segments[0];
    let up = params.segments[1];
    for (var p = 0u; p < PANELS; p++) {
        words[p] = words_of(up, min(first + p, last));
        scales[p] = scales_of(up, min(first + p, last));
    }
    workgroupBarrier();
    let raised = sum_slices(lane, dot_panels(words, scales, params.chunks, base, n));
    if stored {
        let quad = panel * 4u + (n & 3u);
        y[gate.out + token * gate.stride + quad] = gated(sum + bias_of(gate, quad), raised + bias_of(up, quad));
    }
#endif
}
