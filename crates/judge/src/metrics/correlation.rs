//! Pearson's correlation, of values and of ranks.

use super::levels::{Levels, doubled_centred_ranks};

/// A series moved and scaled into [-1, 1], so that squares neither overflow nor vanish. Correlations do not change.
#[derive(Clone, Debug)]
pub(super) struct Standardised {
    /// `(value - centre) / scale`; the mean is 0 up to rounding. All 0 for a constant series.
    pub(super) values: Vec<f64>,
    /// The mean.
    pub(super) centre: f64,
    /// The largest distance from the mean; 1 for a constant series.
    pub(super) scale: f64,
}

impl Standardised {
    /// Standardises finite `values`.
    pub(super) fn of(values: &[f64]) -> Self {
        let Some(&first) = values.first() else {
            return Self { values: Vec::new(), centre: 0.0, scale: 1.0 };
        };
        // The mean of equal values may differ from them by rounding. Rounding must not become a correlation.
        if values.iter().all(|&value| value == first) {
            return Self { values: vec![0.0; values.len()], centre: first, scale: 1.0 };
        }
        let peak = values.iter().fold(0.0_f64, |peak, value| peak.max(value.abs()));
        let n = values.len() as f64;
        let mean = values.iter().map(|value| value / peak).sum::<f64>() / n;
        let mut moved: Vec<f64> = values.iter().map(|value| value / peak - mean).collect();
        let spread = moved.iter().fold(0.0_f64, |spread, value| spread.max(value.abs()));
        moved.iter_mut().for_each(|value| *value /= spread);
        Self { values: moved, centre: mean * peak, scale: spread * peak }
    }
}

/// Pearson's correlation of weighted pairs; `None` for a constant series.
pub(super) fn pearson(xs: &[f64], ys: &[f64], weights: &[u32]) -> Option<f64> {
    let (mut n, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    let mut first = None;
    let (mut x_varies, mut y_varies) = (false, false);
    for ((&x, &y), &weight) in xs.iter().zip(ys).zip(weights) {
        if weight == 0 {
            continue;
        }
        let &mut (first_x, first_y) = first.get_or_insert((x, y));
        x_varies |= x != first_x;
        y_varies |= y != first_y;
        let weight = f64::from(weight);
        n += weight;
        sum_x += weight * x;
        sum_y += weight * y;
    }
    if !(x_varies && y_varies) {
        return None;
    }
    let (mean_x, mean_y) = (sum_x / n, sum_y / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for ((&x, &y), &weight) in xs.iter().zip(ys).zip(weights) {
        let (dx, dy, weight) = (x - mean_x, y - mean_y, f64::from(weight));
        xx += weight * dx * dx;
        yy += weight * dy * dy;
        xy += weight * dx * dy;
    }
    ratio(xy, xx, yy)
}

/// Spearman's correlation of weighted pairs; `None` for a constant series.
pub(super) fn spearman(xs: &Levels, ys: &Levels, weights: &[u32]) -> Option<f64> {
    let (x_counts, y_counts) = (xs.counts(weights), ys.counts(weights));
    if !varies(&x_counts) || !varies(&y_counts) {
        return None;
    }
    let (x_ranks, y_ranks) = (doubled_centred_ranks(&x_counts), doubled_centred_ranks(&y_counts));
    let sum_of_squares = |counts: &[u64], ranks: &[f64]| -> f64 {
        counts.iter().zip(ranks).map(|(&count, rank)| count as f64 * rank * rank).sum()
    };
    let levels = xs.of_value.iter().zip(&ys.of_value).zip(weights);
    let products = levels.map(|((&x, &y), &weight)| f64::from(weight) * x_ranks[x as usize] * y_ranks[y as usize]);
    ratio(products.sum(), sum_of_squares(&x_counts, &x_ranks), sum_of_squares(&y_counts, &y_ranks))
}

/// Whether more than one level has weight.
pub(super) fn varies(counts: &[u64]) -> bool {
    counts.iter().filter(|&&count| count > 0).nth(1).is_some()
}

/// A correlation from its sums; `None` if rounding has left no variance.
fn ratio(xy: f64, xx: f64, yy: f64) -> Option<f64> {
    let scale = (xx * yy).sqrt();
    (scale > 0.0).then(|| (xy / scale).clamp(-1.0, 1.0))
}
