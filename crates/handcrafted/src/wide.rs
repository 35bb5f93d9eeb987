//! Running a computation with the vector instructions that this processor has.

/// Runs `work` compiled for the widest vectors that are known here and present on this machine.
///
/// That reaches whatever is inlined into `work`. Results do not depend on it: sums are kept in lanes of a fixed number and
/// multiplications are fused with additions only where the code says so.
#[inline(always)]
pub(super) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
