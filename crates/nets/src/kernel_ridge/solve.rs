//! Symmetric systems in blocks, without copies of whole matrices.

use tch::{Device, Kind, TchError, Tensor};

/// Rows that triangular systems are solved in at a time.
pub(super) const BLOCK: i64 = 512;

/// What a kernel that is not positive definite may get on its diagonal, relative to the diagonal's mean.
const JITTERS: [f64; 6] = [0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4];

/// Lower triangular L with L Lᵀ = `matrix` + (`lambda` + jitter) I, and the jitter: 0, or the smallest that makes the
/// matrix positive definite. The diagonal of `matrix` is changed and restored, so that there is no second copy.
pub(super) fn factor(matrix: &Tensor, lambda: f64) -> Result<(Tensor, f64), TchError> {
    let diagonal = matrix.diagonal(0, 0, 1);
    let unchanged = diagonal.copy();
    let unit = unchanged.mean(Kind::Double).double_value(&[]).abs().max(f64::MIN_POSITIVE);
    for jitter in JITTERS.map(|jitter| jitter * unit) {
        diagonal.shallow_clone().copy_(&(&unchanged + (lambda + jitter)));
        let factored = matrix.f_linalg_cholesky_ex(false, false);
        diagonal.shallow_clone().copy_(&unchanged);
        let (factor, info) = factored?;
        if info.int64_value(&[]) == 0 {
            return Ok((factor, jitter));
        }
    }
    Err(TchError::Kind(format!(
        "the kernel is not positive definite at strength {lambda}, nor with more on its diagonal"
    )))
}

/// X with L X = `right`, `(n, b)`, for lower triangular `lower`, `(n, n)`; or with Lᵀ X = `right` if `is_transposed`. Only
/// blocks of L are copied.
pub(super) fn solve(lower: &Tensor, right: &Tensor, is_transposed: bool) -> Result<Tensor, TchError> {
    let n = lower.size()[0];
    let solution = right.f_contiguous()?.copy();
    let mut starts: Vec<i64> = (0..n).step_by(BLOCK as usize).collect();
    if is_transposed {
        starts.reverse();
    }
    for start in starts {
        let width = BLOCK.min(n - start);
        let end = start + width;
        let mut own = solution.f_narrow(0, start, width)?;
        let (factors, solved) = if is_transposed {
            (lower.f_narrow(0, end, n - end)?.f_narrow(1, start, width)?.tr(), solution.f_narrow(0, end, n - end)?)
        } else {
            (lower.f_narrow(0, start, width)?.f_narrow(1, 0, start)?, solution.f_narrow(0, 0, start)?)
        };
        own = own.f_sub(&factors.f_matmul(&solved)?)?;
        let block = lower.f_narrow(0, start, width)?.f_narrow(1, start, width)?;
        let block = if is_transposed { block.tr() } else { block };
        let solved = block.f_linalg_solve_triangular(&own, is_transposed, true, false)?;
        solution.f_narrow(0, start, width)?.f_copy_(&solved)?;
    }
    Ok(solution)
}

/// The diagonal of (L Lᵀ)⁻¹, `(n,)`: the squared norms of the columns of L⁻¹. Column j of it is 0 above row j.
pub(super) fn inverse_diagonal(lower: &Tensor) -> Result<Tensor, TchError> {
    let n = lower.size()[0];
    let mut pieces = Vec::new();
    for start in (0..n).step_by(BLOCK as usize) {
        let below = lower.f_narrow(0, start, n - start)?.f_narrow(1, start, n - start)?;
        let mut unit = Tensor::f_zeros([n - start, BLOCK.min(n - start)], (Kind::Double, Device::Cpu))?;
        let _ = unit.fill_diagonal_(1.0, false);
        let columns = solve(&below, &unit, false)?;
        pieces.push(columns.square().f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?);
    }
    Tensor::f_cat(&pieces, 0)
}
