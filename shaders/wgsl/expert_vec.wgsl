// Each route's expert matrix times the route's vector: a workgroup per panel and route.
// Plain: y = activation(W x). Gated: y = activation(G x) ⊙ U x.
#import dot
#import experts
#import activation
#import sum_slices

const LANES = 64u;

@compute @workgroup_size(64)
fn main(lane: Lane, @builtin(workgroup_id) group: vec3u) {
    let panel = group.x;
    let route = group.y;
    let slot = slot(ids[route]);
    if slot >= params.slots {
        return;
    }
    let n = number(lane);
    let base = route / params.share * params.x_stride;
    let first = params.first;
    let sum = sum_slices(lane, dot_panel(words_of(first, slot, panel), scales_of(first, slot, panel), params.chunks, base, n));
    let to = route * params.y_stride + panel * 4u + n;
#ifdef FORM_PLAIN
    if n < 4u {
        y[to] = activate(params.activation, sum);
    }
#else
    let second = params.second;
    workgroupBarrier();
    let up = sum_slices(lane, dot_panel(words_of(second, slot, panel), scales_of(second, slot, panel), params.chunks, base, n));
    if n < 4u {
        y[to] = activate(params.activation, sum) * up;
    }
#endif
}
