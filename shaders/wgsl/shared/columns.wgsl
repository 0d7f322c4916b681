// Reading x where its largest magnitude matters: what stands behind a row's last column is finite, but anything.

// Columns 4 · i .. of the row that begins at `base`.
fn columns(base: u32, i: u32) -> vec4f {
    return select(vec4f(), x[base + i], vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.columns));
}
