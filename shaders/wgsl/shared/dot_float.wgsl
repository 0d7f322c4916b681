// Vectors in f32: weights are decoded, then multiplied and added.
#import codec

// Thirty-two columns.
struct Values {
    lo: mat4x4f, // columns 0..4 of each chunk
    hi: mat4x4f, // columns 4..8
}

fn values(base: u32, group: u32, quad: u32) -> Values {
    let at = base + group * 8u;
    return Values(mat4x4f(x[at], x[at + 2u], x[at + 4u], x[at + 6u]), mat4x4f(x[at + 1u], x[at + 3u], x[at + 5u], x[at + 7u]));
}

// Four rows; `at`: the quad's first line of the group.
fn dots(at: u32, v: Values) -> vec4f {
    var sum = times(at, v.lo[0], v.hi[0]);
    sum += times(at + LINES * 4u, v.lo[1], v.hi[1]);
    sum += times(at + LINES * 8u, v.lo[2], v.hi[2]);
    sum += times(at + LINES * 12u, v.lo[3], v.hi[3]);
    return sum;
}

fn times(at: u32, lo: vec4f, hi: vec4f) -> vec4f {
    let b = block(at);
    return b.lo * lo + b.hi * hi;
}
