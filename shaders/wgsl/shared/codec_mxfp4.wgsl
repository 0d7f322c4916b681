// mxfp4: one line of eight columns, nibbles as in q4: a sign, two bits of exponent, one of mantissa.
const LINES = 1u;
const SCALED = true;

fn block(at: u32) -> Block {
    let w = weights[at];
    return Block(nibbles(w), nibbles(w >> vec4u(4u)));
}

fn nibbles(w: vec4u) -> mat4x4f {
    return mat4x4f(nibble(w), nibble(w >> vec4u(8u)), nibble(w >> vec4u(16u)), nibble(w >> vec4u(24u)));
}

// Magnitudes 0, ½, 1, 1½, 2, 3, 4, 6 lie on three lines, always the highest one.
fn nibble(w: vec4u) -> vec4f {
    let n = vec4f(w & vec4u(7u));
    let magnitude = max(max(0.5 * n, n - 2.0), 2.0 * n - 8.0);
    return select(magnitude, -magnitude, (w & vec4u(8u)) != vec4u(0u));
}
