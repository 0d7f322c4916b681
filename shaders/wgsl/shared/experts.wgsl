// Matrices of experts: records sit in the slots of a slab, a table says which slot holds which expert of which pool.
struct Matrix {
    words: u32, // first line, from the start of the record, in vec4
    scales: u32, // first scales, likewise
    bias: u32, // first element of the bias, likewise, or NO_BIAS
}

struct Params {
    first: Matrix, // the only one, or the gate
    second: Matrix, // gated: up
    chunks: u32, // of 8 columns in a row
    columns: u32, // that mean something
    panels: u32,
    activation: u32,
    alpha: f32, // of a clamped activation
    limit: f32, // likewise
    routes: u32, // of all tokens: entries of `ids`
    share: u32, // consecutive routes that read one row of x: the routes of a token, or 1
    x_stride: u32, // between rows of x, in vec4
    y_stride: u32, // between rows of y, in vec4
    out: u32, // first row of y, in vec4
    table: u32, // the pool's first entry of `slot_of`
    first_slot: u32, // of the window that is bound
    slots: u32, // in the window
    slot_stride: u32, // in vec4
    early: u32, // 1 + the step whose stall does not keep this from computing what is there; 0: none
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> weights: array<vec4u>; // [slots, record], one window of a slab
@group(0) @binding(1) var<storage, read> slot_of: array<u32>; // [pool, expert]
@group(0) @binding(2) var<storage, read> ids: array<u32>; // [tokens, routes]: expert of each route, or NOBODY
@group(0) @binding(3) var<storage, read> x: array<vec4f>; // [tokens or routes, padded columns]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>; // [routes, padded rows]

const NOBODY = 0xffffffffu;
const NO_BIAS = 0xffffffffu;

// Slot of an expert inside the window; `params.slots` or more when it is elsewhere.
fn slot(expert: u32) -> u32 {
    if expert == NOBODY {
        return NOBODY;
    }
    return slot_of[params.table + expert] - params.first_slot;
}

// Four rows' bias; `quad` counts from the matrix's first row.
fn bias_of(m: Matrix, slot: u32, quad: u32) -> vec4f {
    if m.bias == NO_BIAS {
        return vec4f(0.0);
    }
    return bitcast<vec4f>(weights[slot * params.slot_stride + m.bias + quad]);
}
