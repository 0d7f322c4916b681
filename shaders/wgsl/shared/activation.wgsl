// Elementwise non-linearities, chosen at run time: the branch is uniform and costs nothing beside the product before it.
// The importing kernel's parameters say which: `activation`, `alpha`, `limit`.
const NONE = 0u;
const SILU = 1u;
const GELU = 2u;
const GELU_TANH = 3u;
const RELU = 4u;
const CLAMPED = 5u;

fn activate(x: vec4f) -> vec4f {
    switch params.activation {
        case SILU: { return x / (1.0 + exp(-x)); }
        case GELU: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        // tanh of large arguments is not reliable everywhere.
        case GELU_TANH: { return 0.5 * x * (1.0 + tanh(clamp(0.79788456 * (x + 0.044715 * x * x * x), vec4f(-15.0), vec4f(15.0)))); }
        case RELU: { return max(x, vec4f(0.0)); }
        default: { return x; }
    }
}

// Of a gate and what it lets through.
fn gated(gate: vec4f, up: vec4f) -> vec4f {
    if params.activation == CLAMPED {
        let limit = vec4f(params.limit);
        let g = min(gate, limit);
        return g / (1.0 + exp(-params.alpha * g)) * (clamp(up, -limit, limit) + 1.0);
    }
    return activate(gate) * up;
}

// Below 0.9 the Maclaurin series, above it Abramowitz & Stegun 7.1.26; absolute error under 2e-7.
fn erf(x: vec4f) -> vec4f {
    let a = abs(x);
    let s = x * x;
    let series = x * 1.12837917 * (1.0 + s * (-0.33333333 + s * (0.1 + s * (-0.023809524 + s * (0.0046296296
        + s * (-0.00075757576 + s * (0.00010683761 + s * (-0.000013227513 + s * 0.0000014589169))))))));
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return select(sign(x) * (1.0 - tail * exp(-s)), series, a < vec4f(0.9));
}
