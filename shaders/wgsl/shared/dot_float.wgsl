// Vectors in f32: weights are decoded, then multiplied and added.

// `words`, `scales`: where each panel begins, in vec4; `base`: where x begins, in vec4.
#ifdef PANELS_FOUR
fn dot_panels(words: vec4u, scales: vec4u, chunks: u32, base: u32, n: u32) -> Sums {
    let quad = n & 3u;
    var sum = Sums();
    for (var g = n >> 2u; g < (chunks >> 2u); g += 16u) {
        var part = Sums();
        for (var c = 4u * g; c < 4u * g + 4u; c++) {
            let lo = x[base + 2u * c];
            let hi = x[base + 2u * c + 1u];
            let at = words + c * LINES * 4u + quad;
            part += Sums(times(at.x, lo, hi), times(at.y, lo, hi), times(at.z, lo, hi), times(at.w, lo, hi));
        }
        if SCALED {
            part[0] *= scale(scales.x, g, quad);
            part[1] *= scale(scales.y, g, quad);
            part[2] *= scale(scales.z, g, quad);
            part[3] *= scale(scales.w, g, quad);
        }
        sum += part;
    }
    return sum;
}
#else
fn dot_panels(words: vec4u, scales: vec4u, chunks: u32, base: u32, n: u32) -> Sums {
    let quad = n & 3u;
    var sum = Sums();
    for (var g = n >> 2u; g < (chunks >> 2u); g += 16u) {
        var part = Sums();
        for (var c = 4u * g; c < 4u * g + 4u; c++) {
            part += times(words.x + c * LINES * 4u + quad, x[base + 2u * c], x[base + 2u * c + 1u]);
        }
        if SCALED {
            part *= scale(scales.x, g, quad);
        }
        sum += part;
    }
    return sum;
}
#endif

fn times(at: u32, lo: vec4f, hi: vec4f) -> vec4f {
    let b = block(at);
    return b.lo * lo + b.hi * hi;
}
