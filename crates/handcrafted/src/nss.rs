//! Natural scene statistics: locally normalised pixels (MSCN), and fits to them and to products of neighbours.

use super::gaussians::{Asymmetric, symmetric_shape};
use super::moments::Sums;
use super::plane::{self, Border, Plane, before, horizontal_symmetric, pad, padded_len, rows_around};

/// A smaller `x - mean` is rounding noise of a constant neighbourhood.
///
/// Noise adds nothing to any sum, but its sign would decide on which side a sample is counted: the order of summation
/// alone would move BRISQUE by up to 8 and NIQE by 0.7. So such a difference is set to 0 and counts on neither side.
pub(super) const NOISE: f64 = 1e-9;

/// `(x - mu) / (sigma + 1)`, with mean and deviation under the `N` × `N` window `tapsᵀ taps`.
#[inline(always)]
pub(super) fn mscn<const N: usize>(plane: &Plane, taps: &[f64; N], border: Border) -> Plane {
    let width = plane.width;
    let zeros = vec![0.0; width];
    let mut normalised = Plane::zeros(width, plane.height);
    let mut sums = vec![0.0; padded_len(width, N)];
    let mut squares = vec![0.0; padded_len(width, N)];
    let (mut mean, mut mean_square) = (vec![0.0; width], vec![0.0; width]);
    for y in 0..plane.height {
        let rows: [&[f64]; N] = rows_around(plane, y, border, &zeros);
        sums_and_squares(&rows, taps, &mut sums[before(N)..][..width], &mut squares[before(N)..][..width]);
        for padded in [&mut sums, &mut squares] {
            pad::<N>(padded, width, border);
        }
        horizontal_symmetric(&sums, taps, &mut mean);
        horizontal_symmetric(&squares, taps, &mut mean_square);
        let pixels = plane.row(y).iter().zip(mean.iter().zip(&mean_square));
        for (out, (x, (mean, mean_square))) in normalised.row_mut(y).iter_mut().zip(pixels) {
            let sigma = (mean_square - mean * mean).abs().sqrt();
            *out = snapped(x - mean) / (sigma + 1.0);
        }
    }
    normalised
}

/// `x`, or 0 if it is smaller than [`NOISE`].
#[inline(always)]
pub(super) fn snapped(x: f64) -> f64 {
    if x.abs() < NOISE { 0.0 } else { x }
}

/// The vertical filter of the pixels and of their squares, in one pass.
#[inline(always)]
fn sums_and_squares<const N: usize>(rows: &[&[f64]; N], taps: &[f64; N], sums: &mut [f64], squares: &mut [f64]) {
    let width = sums.len();
    let rows = rows.map(|row| &row[..width]);
    let squares = &mut squares[..width];
    for x in 0..width {
        let centre = rows[N / 2][x];
        let (mut sum, mut square) = (taps[N / 2] * centre, taps[N / 2] * (centre * centre));
        for tap in 0..N / 2 {
            let (above, below) = (rows[tap][x], rows[N - 1 - tap][x]);
            sum += taps[tap] * (above + below);
            square += taps[tap] * (above * above + below * below);
        }
        sums[x] = sum;
        squares[x] = square;
    }
}

/// The 7 × 7 window of BRISQUE and NIQE.
pub(super) fn window_7() -> [f64; 7] {
    plane::gaussian(7.0 / 6.0)
}

/// A rectangle of a plane.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// The plane.
    pub(super) plane: &'a Plane,
    /// Left edge.
    pub(super) x: usize,
    /// Top edge.
    pub(super) y: usize,
    /// Width.
    pub(super) width: usize,
    /// Height.
    pub(super) height: usize,
}

impl<'a> Block<'a> {
    /// The whole of `plane`.
    pub(super) fn whole(plane: &'a Plane) -> Self {
        Self { plane, x: 0, y: 0, width: plane.width, height: plane.height }
    }

    /// Its row `y` from its top.
    pub(super) fn row(&self, y: usize) -> &'a [f64] {
        &self.plane.row(self.y + y)[self.x..][..self.width]
    }
}

/// The fits from which each of the three methods selects its features.
pub(super) struct Fits {
    /// Shape of the symmetric fit to the samples.
    pub(super) symmetric_alpha: f64,
    /// Mean square of the samples.
    pub(super) mean_square: f64,
    /// Asymmetric fit to the samples.
    pub(super) samples: Asymmetric,
    /// Asymmetric fits to the products with the neighbour on the right, below, below right and below left, and the root
    /// mean squares of the products' negative and positive sides.
    pub(super) products: [(Asymmetric, [f64; 2]); 4],
}

/// The neighbour that a pixel is multiplied with.
#[derive(Clone, Copy)]
enum Neighbour {
    Right,
    Below,
    BelowRight,
    BelowLeft,
}

/// The neighbours in the order of all three methods.
const NEIGHBOURS: [Neighbour; 4] = [Neighbour::Right, Neighbour::Below, Neighbour::BelowRight, Neighbour::BelowLeft];

impl Neighbour {
    /// Multiplies each pixel of `row` with this neighbour, which lies in `row` or in `below`. Rows wrap around.
    #[inline(always)]
    fn multiply(self, row: &[f64], below: &[f64], products: &mut [f64]) {
        let last = row.len() - 1;
        match self {
            Self::Right => {
                multiply(&row[..last], &row[1..], &mut products[..last]);
                products[last] = row[last] * row[0];
            }
            Self::Below => multiply(row, below, products),
            Self::BelowRight => {
                multiply(&row[..last], &below[1..], &mut products[..last]);
                products[last] = row[last] * below[0];
            }
            Self::BelowLeft => {
                multiply(&row[1..], &below[..last], &mut products[1..]);
                products[0] = row[0] * below[last];
            }
        }
    }
}

#[inline(always)]
fn multiply(xs: &[f64], ys: &[f64], products: &mut [f64]) {
    for (product, (x, y)) in products.iter_mut().zip(xs.iter().zip(ys)) {
        *product = x * y;
    }
}

/// Fits to the samples of `block` and to products of neighbours, which wrap around at its edges.
#[inline(always)]
pub(super) fn fits(block: &Block<'_>) -> Fits {
    let mut samples = Sums::default();
    let mut products: [Sums; 4] = std::array::from_fn(|_| Sums::default());
    let mut product = vec![0.0; block.width];
    for y in 0..block.height {
        let (row, below) = (block.row(y), block.row((y + 1) % block.height));
        samples.add(row);
        for (sums, neighbours) in products.iter_mut().zip(NEIGHBOURS) {
            neighbours.multiply(row, below, &mut product);
            sums.add(&product);
        }
    }
    let moments = samples.moments();
    Fits {
        symmetric_alpha: symmetric_shape(&moments),
        mean_square: moments.mean_square,
        samples: Asymmetric::fit(&moments),
        products: products.map(|sums| {
            let moments = sums.moments();
            (Asymmetric::fit(&moments), [moments.left, moments.right])
        }),
    }
}

/// NIQE's 18 values of `block`, which ILNIQE shares: shape and mean scale of the samples; then, per product, shape,
/// mean and both scales.
#[inline(always)]
pub(super) fn block_features(block: &Block<'_>) -> [f64; 18] {
    let Fits { symmetric_alpha: _, mean_square: _, samples, products } = fits(block);
    let mut features = [0.0; 18];
    features[0] = samples.alpha;
    features[1] = (samples.left + samples.right) / 2.0;
    for (values, (fit, _)) in features[2..].chunks_exact_mut(4).zip(&products) {
        values.copy_from_slice(&[fit.alpha, fit.mean, fit.left, fit.right]);
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_neighbourhood_is_exactly_zero() {
        let plane = Plane { width: 20, height: 20, values: vec![93.0; 400] };
        let normalised = mscn(&plane, &window_7(), Border::Replicate);
        assert!(normalised.values.iter().all(|value| *value == 0.0));
        let padded = mscn(&plane, &window_7(), Border::Zero);
        assert!(padded.values[0] > 0.0, "pixels beyond the edge are black");
        assert_eq!(padded.values[10 * 20 + 10], 0.0);
    }

    #[test]
    fn products_wrap_around() {
        // Two columns: the neighbour on the right of the last column is the first one.
        let plane = Plane { width: 2, height: 3, values: vec![1.0, -2.0, 1.0, -2.0, 1.0, -2.0] };
        let found = fits(&Block::whole(&plane));
        let [left, right] = found.products[0].1;
        assert_eq!(left, 2.0, "every product is -2");
        assert!(right.is_nan());
        let [left, right] = found.products[1].1;
        assert!(left.is_nan());
        assert!((right - (17.0_f64 / 2.0).sqrt()).abs() < 1e-12, "1 and 4 in turn");
    }
}
