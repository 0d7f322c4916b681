// One step of a recurrent router's cell: a workgroup per token.
#import latch

struct Params {
    width: u32, // G
    stride: u32, // of all rows but the memory's, between tokens
    j: u32, // first of token 0's `hidden · h` in `parts`, behind `input · x` of all tokens
    memory_stride: u32, // between tokens
    gated: u32, // 1: three rows of G each: reset, update, new; 0: one
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> parts: array<f32>; // [2, tokens, padded rows]
@group(0) @binding(1) var<storage, read_write> memory: array<f32>; // [tokens, padded G]

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) group: vec3u) {
    if stalled() {
        return;
    }
    let g = params.width;
    for (var n = lane; n < g; n += 64u) {
        let i = group.x * params.stride + n;
        let j = params.j + i;
        let at = group.x * params.memory_stride + n;
        if params.gated == 1u {
            let reset = sigmoid(parts[i] + parts[j]);
            let update = sigmoid(parts[i + g] + parts[j + g]);
            let new_ = bounded_tanh(parts[i + 2u * g] + reset * parts[j + 2u * g]);
            memory[at] = new_ + update * (memory[at] - new_);
        } else {
            memory[at] = bounded_tanh(parts[i] + parts[j]);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

// tanh of large arguments is not reliable everywhere.
fn bounded_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}
