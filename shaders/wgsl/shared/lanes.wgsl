// The lanes of a workgroup of LANES invocations, and reductions over them in a fixed order.
// The importing kernel defines `const LANES`.

struct Lane {
    @builtin(local_invocation_index) index: u32,
#ifdef LANES_SUBGROUP
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) within: u32,
#endif
}

// Lane number such that a subgroup has consecutive numbers.
fn number(lane: Lane) -> u32 {
#ifdef LANES_SUBGROUP
    return lane.subgroup * lane.size + lane.within;
#else
    return lane.index;
#endif
}
