// The latch for kernels that may close it.
@group(1) @binding(0) var<storage, read_write> latch: array<atomic<u32>, 4>; // as in `latch`

var<workgroup> stopped: bool;

// Whether it is closed already; the same in all lanes.
fn latched(lane: u32) -> bool {
    if lane == 0u {
        stopped = atomicLoad(&latch[0]) != 0u;
    }
    return workgroupUniformLoad(&stopped);
}

fn close(step: u32) {
    atomicStore(&latch[0], step);
}
