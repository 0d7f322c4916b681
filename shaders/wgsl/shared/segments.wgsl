// Up to three matrices, or whole panels of larger ones, that share codec and input and are multiplied in one dispatch.
// Or one matrix that is a stack of blocks, each of which has an input of its own: z is the number of the block then.
struct Segment {
    panels: u32, // of this and all earlier segments
    words: u32, // first line, in vec4
    scales: u32, // first scales, in vec4
    bias: u32, // first element in `vectors`, in vec4, or NO_BIAS
    out: u32, // element of `y` for the first row of token 0, in vec4
    stride: u32, // of `y` between tokens, in vec4
}

struct Params {
    chunks: u32, // of 8 columns in a row
    columns: u32, // that mean something
    base: u32, // first token's row of x, in vec4
    x_stride: u32, // between tokens, in vec4
    tokens: u32,
    activation: u32,
    alpha: f32, // of a clamped activation
    limit: f32, // likewise
    scale: f32,
    block: u32, // panels of a block; 0: there are none
    block_x: u32, // between the blocks' columns of x, in vec4
    segments: array<Segment, 3>,
}

var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> weights: array<vec4u>; // panels
@group(0) @binding(1) var<storage, read> vectors: array<vec4f>; // biases, padded with zeros
@group(0) @binding(2) var<storage, read> x: array<vec4f>; // [tokens, padded columns]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>; // for each segment [tokens, padded rows]

const NO_BIAS = 0xffffffffu;

fn segment_of(panel: u32) -> u32 {
    var s = 0u;
    while s < 2u && panel >= params.segments[s].panels {
        s++;
    }
    return s;
}

// Number of the panel inside its segment.
fn inside(panel: u32, s: u32) -> u32 {
    return select(panel, panel - params.segments[max(s, 1u) - 1u].panels, s > 0u);
}

fn words_of(segment: Segment, panel: u32) -> u32 {
    return segment.words + panel * params.chunks * LINES * 4u;
}

fn scales_of(segment: Segment, panel: u32) -> u32 {
    return segment.scales + panel * (params.chunks >> 2u) * SCALE_LINES;
}

// Four rows' bias; `quad` counts from the segment's first row.
fn bias_of(segment: Segment, quad: u32) -> vec4f {
    if segment.bias == NO_BIAS {
        return vec4f(0.0);
    }
    return vectors[segment.bias + quad];
}
