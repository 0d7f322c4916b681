// q4: one line of eight columns: low nibbles of the four bytes are columns 0..4, high nibbles columns 4..8, stored plus 8.
const LINES = 1u;
const SCALED = true;

fn block(at: u32) -> Block {
    let w = weights[at];
    return Block(nibbles(w), nibbles(w >> vec4u(4u)));
}

fn nibbles(w: vec4u) -> mat4x4f {
    return mat4x4f(nibble(w), nibble(w >> vec4u(8u)), nibble(w >> vec4u(16u)), nibble(w >> vec4u(24u)));
}

fn nibble(w: vec4u) -> vec4f {
    return vec4f(w & vec4u(15u)) - 8.0;
}
