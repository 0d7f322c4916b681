// One or four panels times one vector: lane = 4 · slice + quad takes every sixteenth group of 32 columns of its quad's rows.
// Four panels share the preparation of x; one gives more workgroups. The importing kernel binds `weights: array<vec4u>` and `x: array<vec4f>`.
#import codec

// `values` prepares a group of x, `dots` multiplies four rows of a panel with it.
#ifdef PRODUCT_Q8INT8 PRODUCT_Q4INT8
#import dot_int8
#else
#ifdef PRODUCT_Q8HALF PRODUCT_Q4HALF
#import dot_half
#else
#import dot_float
#endif
#endif

#ifdef PANELS_FOUR
const PANELS = 4u;
alias Sums = mat4x4f; // a column for each panel
#else
const PANELS = 1u;
alias Sums = vec4f;
#endif

// `words`, `scales`: where each panel begins, in vec4; `base`: where x begins, in vec4.
fn dot_panels(words: vec4u, scales: vec4u, chunks: u32, base: u32, n: u32) -> Sums {
    let quad = n & 3u;
    let groups = chunks >> 2u;
    var sum = Sums();
    // All lanes take the same number of turns, because `values` may be the common work of neighbours.
    for (var first = 0u; first < groups; first += 16u) {
        let g = first + (n >> 2u);
        let v = values(base, min(g, groups - 1u), quad);
        if g < groups {
#ifdef PANELS_FOUR
            sum += Sums(
                panel(words.x, scales.x, g, quad, v),
                panel(words.y, scales.y, g, quad, v),
                panel(words.z, scales.z, g, quad, v),
                panel(words.w, scales.w, g, quad, v),
            );
#else
            sum += panel(words.x, scales.x, g, quad, v);
#endif
        }
    }
    return sum;
}

fn panel(words: u32, scales: u32, group: u32, quad: u32, v: Values) -> vec4f {
    let part = dots(words + group * LINES * 16u + quad, v);
    if SCALED {
        return part * scale(scales, group, quad);
    }
    return part;
}
