// Each route's expert matrix times the route's vector: a workgroup per route and one or four panels.
// Plain: y = activation(W x + b). Gated: y = activation(G x + g) ⊙ (U x + u).
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
    let scales = panels * (params.chunks >> 2u) * SCALE_LINES + slot * params.slot_stride;
    let a = params.first;
    let sum = sum_slices(lane, dot_panels(words + a.words, scales + a.scales, params.chunks, base, n));
    let stored = n < 4u * PANELS && first + (n >> 2u) < params.panels;
    let quad = first * 4u + n;
    let to = params.out + route * params.y_stride + quad;
#ifdef FORM_PLAIN
    if stored {
        y[to] = activate(sum + bias_of(a, slot, quad));
    }
#else
    let b = params.second;
    workgroupBarrier();
    let up = sum_slices(lane, dot_panels(words + b.words, scales + b.scales, params.chunks, base, n));
    if stored {
        y[to] = gated(sum + bias_of(a, slot, quad), up + bias_of(b, slot, quad));
    }
#endif
}
