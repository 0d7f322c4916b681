// Matrix times vector, for each of a few tokens: a workgroup per panel and token.
// Plain: y = scale · activation(W x + b) for up to three matrices. Gated: y = activation(G x + g) ⊙ (U x + u).
#import dot
#import segments
#import activation
#import sum_slices

const LANES = 64u;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    // Panels are folded over x and z where there are more than one dimension holds.
    let global = group.z * groups.x + group.x;
    let s = segment_of(global);
    let panel = inside(global, s);
    let token = group.y;
    let n = number(lane);
    let first = params.segments[s];
#ifdef FORM_PLAIN
    if global >= params.segments[2].panels {
        return;
    }
#else
    if global >= params.segments[0].panels {
        return;
    }
#endif
    let base = params.base + token * params.x_stride;
    let sum = sum_slices(lane, dot_panel(words_of(first, panel), scales_of(first, panel), params.chunks, base, n));
    let quad = panel * 4u + n;
#ifdef FORM_PLAIN
    if n < 4u {
        y[first.out + token * first.stride + quad] = params.scale * activate(params.activation, sum + bias_of(first, quad));
    }
#else
    let second = params.segments[1];
    workgroupBarrier();
    let up = sum_slices(lane, dot_panel(words_of(second, panel), scales_of(second, panel), params.chunks, base, n));
    if n < 4u {
        y[first.out + token * first.stride + quad] = activate(params.activation, sum + bias_of(first, quad)) * (up + bias_of(second, quad));
    }
#endif
}
