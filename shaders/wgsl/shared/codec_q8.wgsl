// q8: two lines, four columns each, byte `b` = column `b`.
const LINES = 2u;
const SCALED = true;

fn block(at: u32) -> Block {
    return Block(bytes(weights[at]), bytes(weights[at + 4u]));
}

fn bytes(w: vec4u) -> mat4x4f {
    let s = bitcast<vec4i>(w);
    let top = vec4u(24u);
    return mat4x4f(vec4f((s << top) >> top), vec4f((s << vec4u(16u)) >> top), vec4f((s << vec4u(8u)) >> top), vec4f(s >> top));
}
