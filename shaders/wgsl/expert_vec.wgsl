// Each route's expert matrix times the route's vector: a workgroup per route and one or four panels.
// Plain: y = activation(W x). Gated: y = activation(G x) ⊙ U x.
#import latch
#import dot
#import experts
#import activation
#import sum_slices

const LANES = 64u;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    if stalled_but(params.early) {
        return;
    }
    let first = group.x * PANELS;
    let route = group.y;
    let slot = slot(ids[route]);
    if slot >= params.slots {
        return;
    }
    let n = number(lane);
    let base = route / params.share * params.x_stride;
    // Panels past the end repeat the last one and are not stored.
    let panels = min(vec4u(first, first + 1u, first + 2u, first + 3u), vec4u(params.panels - 1u));
    let words = panels * params.chunks * LINES * 4u + slot * params.slot_stride;
    let scales = panels * (params.chunks >> 2u) * 2u + slot * params.slot_stride;
    let a = params.first;
    let sum = sum_slices(lane, dot_panels(words + a.words, scales + a.scales, params.chunks, base, n));
    let stored = n < 4u * PANELS && first + (n >> 2u) < params.panels;
    let to = route * params.y_stride + first * 4u + n;
#ifdef FORM_PLAIN
    if stored {
        y[to] = activate(params.activation, sum);
    }
#else
    let b = params.second;
    workgroupBarrier();
    let up = sum_slices(lane, dot_panels(words + b.words, scales + b.scales, params.chunks, base, n));
    if stored {
        y[to] = activate(params.activation, sum) * up;
    }
#endif
}
