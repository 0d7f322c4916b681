// One line of eight columns: low nibbles of the four bytes are columns 0..4, high nibbles columns 4..8. The importing codec says what a
// nibble is worth.
const LINES = 1u;
const SCALED = true;

fn block(at: u32) -> Block {
    let w = weights[at];
    return Block(nibbles(w), nibbles(w >> vec4u(4u)));
}

fn nibbles(w: vec4u) -> mat4x4f {
    return mat4x4f(nibble(w), nibble(w >> vec4u(8u)), nibble(w >> vec4u(16u)), nibble(w >> vec4u(24u)));
}
