// The latch: set when a token's expert is not on the device. What comes behind that point returns at once, and goes on when it has come.
@group(1) @binding(0) var<storage, read> latch: array<u32, 4>; // [0]: 0, or the step that stalled + 1

fn stalled() -> bool {
    return latch[0] != 0u;
}

// The same for kernels that still run in the step `but` - 1; 0: in none.
fn stalled_but(but: u32) -> bool {
    return latch[0] != 0u && latch[0] != but;
}
