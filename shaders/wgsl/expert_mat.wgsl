// Each expert's matrix times all vectors routed to it; the same arithmetic as `expert_vec`.
// A workgroup per tile (32 routes of one expert) and 4 panels (gated: 2 panels of both matrices).
#import latch
#import tile
#import experts
#import activation

@group(0) @binding(5) var<storage, read> sorted: array<u32>; // routes, by expert
@group(0) @binding(6) var<storage, read> tiles: array<vec4u>; // [0].x: how many; then expert, first in `sorted`, routes

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) n: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled_but(params.early) {
        return;
    }
    if group.y >= tiles[0].x {
        return;
    }
    let list = tiles[1u + group.y];
    let slot = slot(list.x);
    if slot >= params.slots {
        return;
    }
    let r = n & 7u;
    let t = n >> 3u;
    if n < TILE {
        // Routes past the end repeat the last one and are not stored.
        rows[n] = sorted[list.y + min(n, list.z - 1u)] / params.share * params.x_stride;
    }
    let last = params.panels - 1u;
    let a = params.first;
#ifdef FORM_PLAIN
    let b = params.first;
    let quad_a = group.x * 16u + r;
    let quad_b = quad_a + 8u;
#else
    let b = params.second;
    let quad_a = group.x * 8u + r;
    let quad_b = quad_a;
#endif
    // Quads past the end repeat the last panel and are not stored.
    let panel_a = min(quad_a >> 2u, last);
    let panel_b = min(quad_b >> 2u, last);
    let words_a = words_of(a, slot, panel_a) + (quad_a & 3u);
    let words_b = words_of(b, slot, panel_b) + (quad_b & 3u);
    let scales_a = scales_of(a, slot, panel_a);
    let scales_b = scales_of(b, slot, panel_b);
    var sum_a = mat4x4f();
    var sum_b = mat4x4f();
    for (var g = 0u; g < (params.chunks >> 2u); g++) {
        stage(g, n);
        let step = g * LINES * 16u;
        sum_a += tile(words_a + step, scales_a, g, quad_a & 3u, t);
        sum_b += tile(words_b + step, scales_b, g, quad_b & 3u, t);
    }
    let row_a = panel_a * 4u + (quad_a & 3u);
    let row_b = panel_b * 4u + (quad_b & 3u);
    let bias_a = bias_of(a, slot, row_a);
    let bias_b = bias_of(b, slot, row_b);
    for (var i = 0u; i < 4u; i++) {
        let member = t + i * 8u;
        if member >= list.z {
            break;
        }
        let to = params.out + sorted[list.y + member] * params.y_stride;
#ifdef FORM_PLAIN
        if (quad_a >> 2u) <= last {
            y[to + quad_a] = activate(sum_a[i] + bias_a);
        }
        if (quad_b >> 2u) <= last {
            y[to + quad_b] = activate(sum_b[i] + bias_b);
        }
#else
        if (quad_a >> 2u) <= last {
            y[to + quad_a] = gated(sum_a[i] + bias_a, sum_b[i] + bias_b);
        }
#endif
    }
}

fn words_of(m: Matrix, slot: u32, panel: u32) -> u32 {
    return slot * params.slot_stride + m.words + panel * params.chunks * LINES * 4u;
}

fn scales_of(m: Matrix, slot: u32, panel: u32) -> u32 {
    return slot * params.slot_stride + m.scales + panel * (params.chunks >> 2u) * SCALE_LINES;
}
