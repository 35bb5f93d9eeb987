//! Log-Gabor filters: 3 wavelengths × 4 orientations, applied to a square plane by Fourier transform.

use std::f64::consts::PI;
use std::sync::Arc;

use rustfft::num_complex::Complex64;
use rustfft::{Fft, FftPlanner};

use super::nss::snapped;
use super::plane::Plane;
use super::wide;

/// Number of wavelengths.
const N_WAVELENGTHS: usize = 3;

/// Number of orientations per wavelength.
const N_ORIENTATIONS: usize = 4;

/// Number of filters of a bank. The orientations of the first wavelength come first, then the second's, then the
/// third's.
pub(super) const N_FILTERS: usize = N_WAVELENGTHS * N_ORIENTATIONS;

/// Ratio of each wavelength to the previous one.
const WAVELENGTH_STEP: f64 = 1.31;

/// Ratio of the radial Gaussian's deviation to the centre frequency, a parameter of log-Gabor filters.
const SIGMA_ON_F: f64 = 0.55;

/// Ratio of the angle between orientations to the angular Gaussian's deviation.
const ANGLE_ON_SIGMA: f64 = 1.10;

/// Side of the tiles in which a plane is transposed. Two tiles fit into the first-level cache.
const TILE: usize = 24;

/// Filters for planes of one size, with the transforms' plans.
pub(super) struct Bank {
    side: usize,
    forward: Arc<dyn Fft<f64>>,
    backward: Arc<dyn Fft<f64>>,
    /// Per filter: gains by horizontal frequency (row) and vertical frequency (column), with the transform's `1/n²`.
    gains: Vec<Vec<f64>>,
}

/// The Fourier transform of a plane, transposed: each row holds one horizontal frequency.
pub(super) struct Spectrum(Vec<Complex64>);

/// Buffers for the computation of responses, reused from one filter to the next.
pub(super) struct Workspace {
    product: Vec<Complex64>,
    transposed: Vec<Complex64>,
    scratch: Vec<Complex64>,
}

impl Bank {
    /// Filters for `side` × `side` planes. The shortest wavelength is `shortest` pixels. `side` must be even.
    pub(super) fn new(side: usize, shortest: f64) -> Self {
        let mut planner = FftPlanner::new();
        let frequency = |index: usize| {
            let signed = if index < side / 2 { index as f64 } else { index as f64 - side as f64 };
            signed / side as f64
        };
        let n_pixels = (side * side) as f64;
        let gains = (0..N_FILTERS)
            .map(|filter| {
                let wavelength = shortest * WAVELENGTH_STEP.powi((filter / N_ORIENTATIONS) as i32);
                let orientation = (filter % N_ORIENTATIONS) as f64 * PI / N_ORIENTATIONS as f64;
                let position = |index: usize| (frequency(index / side), frequency(index % side));
                (0..side * side).map(|index| gain(position(index), wavelength, orientation) / n_pixels).collect()
            })
            .collect();
        Self { side, forward: planner.plan_fft_forward(side), backward: planner.plan_fft_inverse(side), gains }
    }

    /// Buffers for this bank's responses.
    pub(super) fn workspace(&self) -> Workspace {
        let zeros = |n| vec![Complex64::new(0.0, 0.0); n];
        let n_pixels = self.side * self.side;
        let n_scratch = self.backward.get_inplace_scratch_len().max(self.forward.get_inplace_scratch_len());
        Workspace { product: zeros(n_pixels), transposed: zeros(n_pixels), scratch: zeros(n_scratch) }
    }

    /// The transform of `plane`.
    ///
    /// # Panics
    /// If `plane` has another size.
    pub(super) fn spectrum(&self, plane: &Plane, workspace: &mut Workspace) -> Spectrum {
        assert_eq!((plane.width, plane.height), (self.side, self.side), "a bank filters planes of its own size");
        let Workspace { product: rows, scratch, .. } = workspace;
        for (out, value) in rows.iter_mut().zip(&plane.values) {
            *out = Complex64::new(*value, 0.0);
        }
        self.forward.process_with_scratch(rows, scratch);
        let mut columns = vec![Complex64::new(0.0, 0.0); rows.len()];
        transpose(rows, &mut columns, self.side);
        self.forward.process_with_scratch(&mut columns, scratch);
        Spectrum(columns)
    }

    /// Writes the response of filter number `filter` to `real` and `imaginary`. Rounding noise becomes 0.
    pub(super) fn respond(
        &self,
        spectrum: &Spectrum,
        filter: usize,
        workspace: &mut Workspace,
        [real, imaginary]: [&mut Plane; 2],
    ) {
        let Workspace { product, transposed, scratch } = workspace;
        wide::dispatch(
            #[inline(always)]
            || {
                for (out, (value, gain)) in product.iter_mut().zip(spectrum.0.iter().zip(&self.gains[filter])) {
                    *out = value * gain;
                }
            },
        );
        self.backward.process_with_scratch(product, scratch);
        transpose(product, transposed, self.side);
        self.backward.process_with_scratch(transposed, scratch);
        let parts = real.values.iter_mut().zip(&mut imaginary.values);
        wide::dispatch(
            #[inline(always)]
            || {
                for (value, (real, imaginary)) in transposed.iter().zip(parts) {
                    *real = snapped(value.re);
                    *imaginary = snapped(value.im);
                }
            },
        );
    }
}

/// Gain at a frequency (horizontal, vertical; cycles per pixel). Source: Kovesi's `gaborconvolve`, without its
/// low-pass.
fn gain((fx, fy): (f64, f64), wavelength: f64, orientation: f64) -> f64 {
    let radius = fx.hypot(fy);
    if radius == 0.0 {
        return 0.0;
    }
    let octaves = (radius * wavelength).ln() / SIGMA_ON_F.ln();
    let radial = (-octaves * octaves / 2.0).exp();
    let (sin, cos) = (-fy).atan2(fx).sin_cos();
    let (sin_o, cos_o) = orientation.sin_cos();
    let angle = (sin * cos_o - cos * sin_o).atan2(cos * cos_o + sin * sin_o);
    let sigma = PI / N_ORIENTATIONS as f64 / ANGLE_ON_SIGMA;
    radial * (-angle * angle / (2.0 * sigma * sigma)).exp()
}

fn transpose(from: &[Complex64], to: &mut [Complex64], side: usize) {
    for top in (0..side).step_by(TILE) {
        for left in (0..side).step_by(TILE) {
            for x in left..(left + TILE).min(side) {
                let row = &mut to[x * side..][..side];
                for y in top..(top + TILE).min(side) {
                    row[y] = from[y * side + x];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_scaled_by_the_gain_at_its_frequency() {
        let side = 32;
        let bank = Bank::new(side, 4.0);
        // Four cycles across, none down: the filter of orientation 0 passes the positive frequency.
        let wave = |x: usize| (2.0 * PI * 4.0 * x as f64 / side as f64).cos();
        let plane = Plane { width: side, height: side, values: (0..side * side).map(|i| wave(i % side)).collect() };
        let mut workspace = bank.workspace();
        let spectrum = bank.spectrum(&plane, &mut workspace);
        let (mut real, mut imaginary) = (Plane::zeros(side, side), Plane::zeros(side, side));
        bank.respond(&spectrum, 0, &mut workspace, [&mut real, &mut imaginary]);
        let gains = [gain((0.125, 0.0), 4.0, 0.0), gain((-0.125, 0.0), 4.0, 0.0)];
        for (x, value) in real.values[..side].iter().enumerate() {
            assert!((value - (gains[0] + gains[1]) / 2.0 * wave(x)).abs() < 1e-9, "{x}: {value}");
        }
        let quarter = imaginary.values[2];
        assert!((quarter - (gains[0] - gains[1]) / 2.0).abs() < 1e-9, "{quarter}");
    }

    #[test]
    fn the_gain_is_greatest_at_the_wavelength_and_none_for_constants() {
        assert_eq!(gain((0.0, 0.0), 4.0, 0.0), 0.0);
        assert!((gain((0.25, 0.0), 4.0, 0.0) - 1.0).abs() < 1e-12);
        assert!((gain((0.0, -0.25), 4.0, PI / 2.0) - 1.0).abs() < 1e-12);
        assert!(gain((0.2, 0.0), 4.0, 0.0) < 1.0);
    }
}
