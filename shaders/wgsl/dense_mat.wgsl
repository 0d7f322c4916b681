// Matrix times many vectors; the same arithmetic as `dense_vec`. A workgroup per 32 tokens and 4 panels (gated: 2 panels of both).
#import latch
#import tile
#import segments
#import activation

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) n: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if stalled() {
        return;
    }
    let r = n & 7u;
    let t = n >> 3u;
    let token = group.y * TILE;
    let column = select(group.z * groups.x, 0u, params.block > 0u) + group.x;
    // Panels of the blocks before this one.
    let skip = group.z * params.block;
    if n < TILE {
        // Tokens past the end repeat the last one and are not stored.
        rows[n] = params.base + group.z * params.block_x + min(token + n, params.tokens - 1u) * params.x_stride;
    }
#ifdef FORM_PLAIN
    let last = select(params.segments[2].panels, params.block, params.block > 0u) - 1u;
    // Quads past the end repeat the last panel and are not stored.
    let quad_a = column * 16u + r;
    let quad_b = quad_a + 8u;
    let s_a = segment_of(skip + min(quad_a >> 2u, last));
    let s_b = segment_of(skip + min(quad_b >> 2u, last));
    let panel_a = inside(skip + min(quad_a >> 2u, last), s_a);
    let panel_b = inside(skip + min(quad_b >> 2u, last), s_b);
#else
    let last = params.segments[0].panels - 1u;
    let quad_a = column * 8u + r;
    let quad_b = quad_a;
    let s_a = 0u;
    let s_b = 1u;
    let panel_a = min(quad_a >> 2u, last);
    let panel_b = panel_a;
#endif
    let a = params.segments[s_a];
    let b = params.segments[s_b];
    let words_a = words_of(a, panel_a) + (quad_a & 3u);
    let words_b = words_of(b, panel_b) + (quad_b & 3u);
    let scales_a = scales_of(a, panel_a);
    let scales_b = scales_of(b, panel_b);
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
    let bias_a = bias_of(a, row_a);
    let bias_b = bias_of(b, row_b);
    for (var i = 0u; i < 4u; i++) {
        let to = token + t + i * 8u;
        if to >= params.tokens {
            break;
        }
#ifdef FORM_PLAIN
        if (quad_a >> 2u) <= last {
            y[a.out + to * a.stride + row_a] = params.scale * activate(sum_a[i] + bias_a);
        }
        if (quad_b >> 2u) <= last {
            y[b.out + to * b.stride + row_b] = params.scale * activate(sum_b[i] + bias_b);
        }
#else
        if (quad_a >> 2u) <= last {
            y[a.out + to * a.stride + row_a] = gated(sum_a[i] + bias_a, sum_b[i] + bias_b);
        }
#endif
    }
}
