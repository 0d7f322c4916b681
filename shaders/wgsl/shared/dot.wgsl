// One panel times one vector: lane = 4 · slice + quad takes every sixteenth chunk of its quad's rows.
// The importing kernel binds `weights: array<vec4u>` and `x: array<vec4f>`.
#import codec

// `words`, `scales`: where the panel begins, in vec4; `from`: where x begins, in vec4.
fn dot_panel(words: u32, scales: u32, chunks: u32, base: u32, n: u32) -> vec4f {
    let quad = n & 3u;
    var sum = vec4f(0.0);
    for (var c = n >> 2u; c < chunks; c += 16u) {
        let b = block(words + c * LINES * 4u + quad);
        let part = b.lo * x[base + 2u * c] + b.hi * x[base + 2u * c + 1u];
        if SCALED {
            sum += part * scale(scales, c >> 2u, quad);
        } else {
            sum += part;
        }
    }
    return sum;
}
