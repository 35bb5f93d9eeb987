//! Kernel ridge regression on standardised columns, in float64.
//!
//! Each column i (a vector of p_i values per image) is standardised on the training part. The mean squared difference of two
//! images is d = 1/c Σ_i |x_i - y_i|² / p_i over the c columns, where p_i counts the values that vary. The kernel is
//! k(x, y) = exp(-γ d) / γ, and its limit for γ = 0, up to a constant that centring removes, is the linear kernel
//! k(x, y) = 1/c Σ_i x_i·y_i / p_i. A score is ȳ + Σ_j α_j k(x, s_j) over the support images s_j.
//!
//! - **All training images are support images** where they are few: α = (K + λI)⁻¹ (y - ȳ). The leave-one-out residual of
//!   image i is α_i / [(K + λI)⁻¹]_ii (Rasmussen and Williams, Gaussian Processes for Machine Learning, equation 5.12).
//! - **A subset of them** (Nyström's method) where they are many: with Φ = K_ns L⁻ᵀ and K_ss = L Lᵀ, the weights are
//!   w = (ΦᵀΦ + λI)⁻¹ Φᵀ (y - ȳ) and α = L⁻ᵀ w. The leave-one-out residual is r_i / (1 - h_i), where h_i is an entry of the
//!   diagonal of Φ (ΦᵀΦ + λI)⁻¹ Φᵀ.
//!
//! λ is the candidate with the smallest mean squared leave-one-out residual. The mean ȳ stays that of all images.
//!
//! The standard deviation of a score is σ √v(x), with v(x) = k(x, x) + λ - k_sᵀ (K_ss + λI)⁻¹ k_s (ibid., equation 2.26). σ²
//! is the mean of the squared leave-one-out residuals, each over its own v.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use tch::{Device, Kind, TchError, Tensor};

use super::trained_head::Standardisation;

mod file;

pub use file::{Header, KernelRidge};

mod solve;

use solve::{BLOCK, factor, inverse_diagonal, solve};

/// Images per product. The last batch is padded to it, so a score does not depend on the other images.
const BATCH: i64 = 256;

/// Values per product of a column. This bounds the memory of standardised copies in float64.
const CHUNK: i64 = 1024;

/// Up to this number of support images, one thread solves the systems, so that the bits do not depend on the machine.
const ONE_THREAD: i64 = 4096;

/// The kernel between some support images and any others.
#[derive(Debug)]
pub struct Kernel {
    gamma: f64,
    columns: Vec<Column>,
}

/// One column of the support images.
#[derive(Debug)]
struct Column {
    standardisation: Standardisation,
    /// Not standardised, `(m, d)`.
    rows: Tensor,
    /// 1 / (c p).
    weight: f64,
}

/// Standardised float64 values of some columns of `xs`, `(b, width)`.
fn standardised(xs: &Tensor, by: &Standardisation, start: i64, width: i64) -> Result<Tensor, TchError> {
    let part = |vector: &Tensor| vector.narrow(0, start, width).to_kind(Kind::Double);
    let values = xs.f_narrow(1, start, width)?.f_to_kind(Kind::Double)?;
    values.f_sub(&part(&by.mean))?.f_mul(&part(&by.scale))
}

/// The chunks of `dim` values: start and width of each.
fn chunks(dim: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..dim).step_by(CHUNK as usize).map(move |start| (start, CHUNK.min(dim - start)))
}

impl Kernel {
    /// The kernel of support images `rows`, `(m, d)` per column, with their standardisations.
    pub fn new(gamma: f64, rows: Vec<Tensor>, standardisations: Vec<Standardisation>) -> Self {
        let n_columns = rows.len() as f64;
        let column = |(rows, standardisation): (Tensor, Standardisation)| {
            let n_varying = standardisation.scale.gt(0.0).sum(Kind::Int64).int64_value(&[]);
            Column { standardisation, rows, weight: 1.0 / (n_columns * n_varying.max(1) as f64) }
        };
        Self { gamma, columns: rows.into_iter().zip(standardisations).map(column).collect() }
    }

    /// Standardisations of columns `(n, d)` over all their rows.
    pub fn standardise(columns: &[Tensor]) -> Vec<Standardisation> {
        let of_column = |column: &Tensor| {
            let fit = |(start, width)| Standardisation::fit(&column.narrow(1, start, width));
            let (mean, scale): (Vec<Tensor>, Vec<Tensor>) =
                chunks(column.size()[1]).map(fit).map(|Standardisation { mean, scale }| (mean, scale)).unzip();
            Standardisation { mean: Tensor::cat(&mean, 0), scale: Tensor::cat(&scale, 0) }
        };
        columns.iter().map(of_column).collect()
    }

    /// The number of support images.
    fn n_support(&self) -> i64 {
        self.columns[0].rows.size()[0]
    }

    fn share(&self) -> Self {
        let share = |column: &Column| Column {
            standardisation: column.standardisation.share(),
            rows: column.rows.shallow_clone(),
            weight: column.weight,
        };
        Self { gamma: self.gamma, columns: self.columns.iter().map(share).collect() }
    }

    /// Weighted sum over columns of the squared norms of standardised `xs`, `(b,)`.
    fn squares<'a>(&self, xs: impl Iterator<Item = &'a Tensor>) -> Result<Tensor, TchError> {
        let mut sum: Option<Tensor> = None;
        for (xs, column) in xs.zip(&self.columns) {
            for (start, width) in chunks(xs.size()[1]) {
                let squared = standardised(xs, &column.standardisation, start, width)?.f_square()?;
                let squares = squared.f_sum_dim_intlist([1_i64].as_slice(), false, Kind::Double)? * column.weight;
                sum = Some(sum.map_or_else(|| squares.shallow_clone(), |sum| sum + &squares));
            }
        }
        Ok(sum.unwrap_or_else(|| Tensor::zeros([self.n_support()], (Kind::Double, Device::Cpu))))
    }

    /// k(x, s) of a batch `xs` with all support images, `(b, m)`, and k(x, x), `(b,)`. `squares` are those of the support.
    fn rows(&self, xs: &[Tensor], squares: &Tensor) -> Result<[Tensor; 2], TchError> {
        let n = xs[0].size()[0];
        let mut products = Tensor::f_zeros([n, self.n_support()], (Kind::Double, Device::Cpu))?;
        for (xs, Column { standardisation, rows, weight }) in xs.iter().zip(&self.columns) {
            for (start, width) in chunks(xs.size()[1]) {
                let own = standardised(xs, standardisation, start, width)? * *weight;
                let support = standardised(rows, standardisation, start, width)?;
                let _ = products.f_addmm_(&own, &support.tr())?;
            }
        }
        let own_squares = self.squares(xs.iter())?;
        if self.gamma == 0.0 {
            return Ok([products, own_squares]);
        }
        let distances = (products * -2.0 + own_squares.unsqueeze(1) + squares).clamp_min(0.0);
        let kernel = (distances * -self.gamma).exp() / self.gamma;
        Ok([kernel, Tensor::full_like(&own_squares, 1.0 / self.gamma)])
    }

    /// Calls a worker with the rows, k(x, s) and k(x, x) of each batch of `xs`, `(n, d)` per column. A batch is padded to
    /// [`BATCH`]. Each of `n_threads` threads has a worker of its own. Returns the workers' results in the order of the
    /// batches.
    fn for_each_batch<T: Send, W: FnMut(Range<i64>, [Tensor; 2]) -> Result<T, TchError> + Send>(
        &self,
        xs: &[Tensor],
        n_threads: usize,
        worker: impl Fn() -> W,
    ) -> Result<Vec<T>, TchError> {
        let n = xs[0].size()[0];
        let squares = self.squares(self.columns.iter().map(|column| &column.rows))?;
        let starts: Vec<i64> = (0..n).step_by(BATCH as usize).collect();
        let results = Mutex::new(BTreeMap::new());
        let n_torch_threads = tch::get_num_threads();
        std::thread::scope(|scope| {
            for starts in starts.chunks(starts.len().div_ceil(n_threads.max(1)).max(1)) {
                let (kernel, squares, results, mut work) = (self.share(), squares.shallow_clone(), &results, worker());
                let xs: Vec<Tensor> = xs.iter().map(Tensor::shallow_clone).collect();
                scope.spawn(move || {
                    // The number of threads must not change the bits of a product.
                    tch::set_num_threads(1);
                    for &start in starts {
                        let n_rows = BATCH.min(n - start);
                        let batch = xs.iter().map(|xs| xs.narrow(0, start, n_rows));
                        let padded = batch.map(|xs| xs.constant_pad_nd([0, 0, 0, BATCH - n_rows])).collect::<Vec<_>>();
                        let result = kernel.rows(&padded, &squares).and_then(|rows| work(start..start + n_rows, rows));
                        results.lock().expect("no holder of this lock panics").insert(start, result);
                    }
                });
            }
        });
        tch::set_num_threads(n_torch_threads);
        results.into_inner().expect("no holder of this lock panics").into_values().collect()
    }

    /// K of `xs`, `(n, d)` per column, with the support images, `(n, m)`.
    fn matrix(&self, xs: &[Tensor], n_threads: usize) -> Result<Tensor, TchError> {
        let matrix = Tensor::f_zeros([xs[0].size()[0], self.n_support()], (Kind::Double, Device::Cpu))?;
        self.for_each_batch(xs, n_threads, || {
            let matrix = matrix.shallow_clone();
            move |batch: Range<i64>, [rows, _]: [Tensor; 2]| {
                let n_rows = batch.end - batch.start;
                matrix.narrow(0, batch.start, n_rows).f_copy_(&rows.narrow(0, 0, n_rows))
            }
        })?;
        Ok(matrix)
    }
}

/// A candidate of λ, judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// λ, as given.
    pub strength: f64,
    /// What was added to it, because the kernel was not positive definite for want of precision; mostly 0.
    pub jitter: f64,
    /// Root of the mean squared leave-one-out residual, on the scale of the labels.
    pub error: f64,
}

/// A regression that was fitted.
#[derive(Debug)]
pub struct Fitted {
    /// All candidates, in the order given.
    pub candidates: Vec<Candidate>,
    /// The position of the best of them.
    pub best: usize,
    /// σ of the standard deviation; `None` for a single image, and if all images are support images of a subset.
    pub sigma: Option<f64>,
    /// Mean of the labels.
    pub mean: f64,
    /// Leave-one-out residuals at the best λ, in the order of the training rows.
    pub residuals: Vec<f64>,
    /// α, `(m,)`.
    pub dual: Tensor,
}

impl Fitted {
    /// The best λ, with its jitter.
    pub fn lambda(&self) -> f64 {
        let Candidate { strength, jitter, .. } = self.candidates[self.best];
        strength + jitter
    }

    fn of(mean: f64) -> Self {
        let dual = Tensor::zeros([0], (Kind::Double, Device::Cpu));
        Self { candidates: Vec::new(), best: 0, sigma: None, mean, residuals: Vec::new(), dual }
    }

    /// Adds a candidate. Returns whether it is the best so far.
    fn add(&mut self, strength: f64, jitter: f64, residuals: &Tensor) -> bool {
        let error = residuals.square().mean(Kind::Double).double_value(&[]).sqrt();
        self.candidates.push(Candidate { strength, jitter, error });
        let last = self.candidates.len() - 1;
        let is_best = last == 0 || error < self.candidates[self.best].error;
        if is_best {
            self.best = last;
        }
        is_best
    }
}

fn centred(labels: &[f64]) -> (f64, Tensor) {
    let mean = labels.iter().sum::<f64>() / labels.len().max(1) as f64;
    (mean, Tensor::from_slice(&labels.iter().map(|label| label - mean).collect::<Vec<_>>()).unsqueeze(1))
}

/// Runs `compute` on one torch thread if `n` is small.
fn on_threads<T>(n: i64, compute: impl FnOnce() -> T) -> T {
    let n_threads = tch::get_num_threads();
    tch::set_num_threads(if n <= ONE_THREAD { 1 } else { n_threads });
    let result = compute();
    tch::set_num_threads(n_threads);
    result
}

impl Kernel {
    /// Fits to `labels` of the support images. `goes_on` is asked before each candidate; `None` if it says no.
    ///
    /// Memory: two n × n matrices of float64, and batches. Time: about n² d + 2/3 n³ per strength, in products and sums.
    ///
    /// # Errors
    /// Fails if memory runs short, or if no jitter makes the kernel positive definite.
    pub fn fit(
        &self,
        labels: &[f64],
        strengths: &[f64],
        n_threads: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Fitted>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let rows: Vec<Tensor> = self.columns.iter().map(|column| column.rows.shallow_clone()).collect();
        let matrix = self.matrix(&rows, n_threads)?;
        let (mean, centred) = centred(labels);
        let mut fitted = Fitted::of(mean);
        on_threads(self.n_support(), || {
            for &strength in strengths {
                if !goes_on() {
                    return Ok(None);
                }
                let (factor, jitter) = factor(&matrix, strength)?;
                let dual = solve(&factor, &solve(&factor, &centred, false)?, true)?.squeeze_dim(1);
                let variances = inverse_diagonal(&factor)?.reciprocal(); // of each image, given the others
                let residuals = &dual * &variances;
                if fitted.add(strength, jitter, &residuals) {
                    let scaled = residuals.square() / &variances;
                    fitted.sigma = (labels.len() > 1).then(|| scaled.mean(Kind::Double).double_value(&[]).sqrt());
                    fitted.residuals = Vec::try_from(residuals)?;
                    fitted.dual = dual;
                }
            }
            Ok(Some(fitted))
        })
    }

    /// Fits to `labels` of the images `rows`, `(n, d)` per column, by Nyström's method. The support images have the
    /// positions `support` among them.
    ///
    /// Memory: an n × m matrix and three m × m matrices of float64, and batches.
    ///
    /// # Errors
    /// As [`Self::fit`].
    pub fn fit_by_subset(
        &self,
        rows: &[Tensor],
        support: &[i64],
        labels: &[f64],
        strengths: &[f64],
        n_threads: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Fitted>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let matrix = self.matrix(rows, n_threads)?; // (n, m)
        let (mean, centred) = centred(labels);
        let mut fitted = Fitted::of(mean);
        on_threads(self.n_support(), || {
            let of_support = matrix.f_index_select(0, &Tensor::from_slice(support))?;
            let (lower, _) = factor(&of_support, 0.0)?;
            // Φ takes the place of K block by block.
            for start in (0..matrix.size()[0]).step_by(BLOCK as usize) {
                let block = matrix.narrow(0, start, BLOCK.min(matrix.size()[0] - start));
                block.shallow_clone().f_copy_(&solve(&lower, &block.tr(), false)?.tr())?;
            }
            let products = matrix.tr().f_matmul(&matrix)?; // (m, m)
            let sums = matrix.tr().f_matmul(&centred)?; // (m, 1)
            for &strength in strengths {
                if !goes_on() {
                    return Ok(None);
                }
                let (factor, jitter) = factor(&products, strength)?;
                let weights = solve(&factor, &solve(&factor, &sums, false)?, true)?;
                let mut leverage = Vec::new();
                for start in (0..matrix.size()[0]).step_by(BLOCK as usize) {
                    let block = matrix.narrow(0, start, BLOCK.min(matrix.size()[0] - start));
                    let whitened = solve(&factor, &block.tr(), false)?;
                    leverage.push(whitened.square().f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?);
                }
                let errors = (&centred - matrix.f_matmul(&weights)?).squeeze_dim(1);
                let residuals = errors / (1.0 - Tensor::f_cat(&leverage, 0)?);
                if fitted.add(strength, jitter, &residuals) {
                    fitted.residuals = Vec::try_from(residuals)?;
                    fitted.dual = solve(&lower, &weights, true)?.squeeze_dim(1);
                }
            }
            Ok::<_, TchError>(Some(()))
        })?
        .map(|()| self.with_sigma(fitted, rows, support, n_threads))
        .transpose()
    }

    /// `fitted` by a subset, with σ from the images outside of it.
    fn with_sigma(
        &self,
        mut fitted: Fitted,
        rows: &[Tensor],
        support: &[i64],
        n_threads: usize,
    ) -> Result<Fitted, TchError> {
        let scorer = Scorer::new(self.share(), fitted.dual.shallow_clone(), fitted.mean, fitted.lambda(), Some(1.0))?;
        let scaled: Vec<f64> = scorer
            .score(rows, n_threads)?
            .into_iter()
            .zip(&fitted.residuals)
            .enumerate()
            .filter(|(row, _)| support.binary_search(&(*row as i64)).is_err())
            .filter_map(|(_, ((_, std), residual))| Some((residual / std?).powi(2)))
            .collect();
        fitted.sigma = (!scaled.is_empty()).then(|| (scaled.iter().sum::<f64>() / scaled.len() as f64).sqrt());
        Ok(fitted)
    }

    /// The weights of a linear kernel, one vector `(d,)` per column: a score is ȳ + Σ_i w_i·x_i over standardised columns.
    pub fn linear_weights(&self, dual: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let weights = |Column { standardisation, rows, weight }: &Column| {
            let products = chunks(rows.size()[1]).map(|(start, width)| {
                let support = standardised(rows, standardisation, start, width)?;
                Ok(support.tr().f_matmul(&dual.unsqueeze(1))?.squeeze_dim(1) * *weight)
            });
            Ok(Tensor::cat(&products.collect::<Result<Vec<_>, TchError>>()?, 0))
        };
        self.columns.iter().map(weights).collect()
    }
}

/// A fitted regression that scores images.
#[derive(Debug)]
pub struct Scorer {
    kernel: Kernel,
    dual: Tensor,
    mean: f64,
    lambda: f64,
    /// σ, and the factor of K_ss + λI.
    spread: Option<(f64, Tensor)>,
}

impl Scorer {
    /// A scorer of the regression `dual` over the kernel's support images.
    ///
    /// # Errors
    /// Fails if memory runs short.
    pub fn new(kernel: Kernel, dual: Tensor, mean: f64, lambda: f64, sigma: Option<f64>) -> Result<Self, TchError> {
        let spread = match sigma {
            Some(sigma) => {
                let rows: Vec<Tensor> = kernel.columns.iter().map(|column| column.rows.shallow_clone()).collect();
                let matrix = kernel.matrix(&rows, usize::try_from(tch::get_num_threads()).unwrap_or(1))?;
                Some((sigma, on_threads(kernel.n_support(), || factor(&matrix, lambda))?.0))
            }
            None => None,
        };
        Ok(Self { kernel, dual, mean, lambda, spread })
    }

    /// Scores of images `xs`, `(n, d)` per column, each with its standard deviation.
    ///
    /// # Errors
    /// Fails if memory runs short.
    pub fn score(&self, xs: &[Tensor], n_threads: usize) -> Result<Vec<(f64, Option<f64>)>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let batches = self.kernel.for_each_batch(xs, n_threads, || {
            let (dual, mean, lambda) = (self.dual.unsqueeze(1), self.mean, self.lambda);
            let spread = self.spread.as_ref().map(|(sigma, factor)| (*sigma, factor.shallow_clone()));
            move |batch: Range<i64>, [rows, own]: [Tensor; 2]| {
                let n_rows = (batch.end - batch.start) as usize;
                let scores = Vec::<f64>::try_from(rows.f_matmul(&dual)?.squeeze_dim(1) + mean)?;
                let Some((sigma, factor)) = &spread else {
                    return Ok(scores.into_iter().take(n_rows).map(|score| (score, None)).collect::<Vec<_>>());
                };
                let whitened = solve(factor, &rows.tr(), false)?;
                let known = whitened.square().f_sum_dim_intlist([0_i64].as_slice(), false, Kind::Double)?;
                let variances = (own + lambda - known).clamp_min(0.0);
                let stds = Vec::<f64>::try_from(variances.sqrt() * *sigma)?;
                Ok(scores.into_iter().zip(stds.into_iter().map(Some)).take(n_rows).collect())
            }
        })?;
        Ok(batches.concat())
    }
}
