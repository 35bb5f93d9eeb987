//! Runs a computation with this processor's vector instructions.

/// Runs `work`, compiled for the widest vectors of this machine that `pulp` supports.
///
/// All code inlined into `work` uses them. Results do not depend on them: sums have a fixed number of lanes, and only
/// an explicit `mul_add` fuses a multiplication with an addition.
#[inline(always)]
pub(super) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
