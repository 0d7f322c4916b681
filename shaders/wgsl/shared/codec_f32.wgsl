// f32: eight lines, one column each.
const LINES = 8u;
const SCALED = false;

fn block(at: u32) -> Block {
    return Block(
        mat4x4f(raw(at), raw(at + 4u), raw(at + 8u), raw(at + 12u)),
        mat4x4f(raw(at + 16u), raw(at + 20u), raw(at + 24u), raw(at + 28u)),
    );
}

fn raw(at: u32) -> vec4f {
    return bitcast<vec4f>(weights[at]);
}
