//! How a rating network sees pictures: random crops and flips in training, its own preprocessing in validation.

use std::borrow::Cow;
use std::sync::Arc;

use rand_mt::Mt64;

use crate::engine::{Failure, Input};
use crate::train::pictures::View;
use crate::train::random::unit;
use agiqa_images::{PillowFilter, RgbImage8, resize_as_pillow};
use agiqa_nets::raters::Prepare;

/// Probability of a flip.
const FLIP_PROBABILITY: f64 = 0.5;

/// Pictures of a rating network.
pub(super) struct RaterView {
    pub(super) prepare: Arc<dyn Prepare>,
    /// Side of a training crop, pixels; `None` for whole images.
    pub(super) crop_px: Option<u32>,
    pub(super) flips: bool,
}

impl View for RaterView {
    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Failure> {
        // The input is made and dropped: whatever the network cannot read must be known before the training.
        let kept = self.prepare.kept(image).and_then(|kept| self.prepare.prepare(&kept).map(|_| kept));
        kept.map_err(|unfit| Failure { kind: "unfit", message: unfit.to_string() })
    }

    fn moved(&self, kept: &RgbImage8, generator: &mut Mt64) -> Input {
        // Every network takes the same number of draws.
        let [down, right, flip] = std::array::from_fn(|_| unit(generator));
        let mut picture = match self.crop_px {
            Some(side) => Cow::Owned(cut(&enlarged(kept, side), side, down, right)),
            None => Cow::Borrowed(kept),
        };
        if self.flips && flip < FLIP_PROBABILITY {
            flip_columns(picture.to_mut());
        }
        self.prepare.whole(&picture).expect("the picture fits, and crops have a side that fits").into()
    }

    fn still(&self, kept: &RgbImage8) -> Input {
        self.prepare.prepare(kept).expect("the picture fits").into()
    }
}

/// `image`, enlarged if its shorter side is below `side` pixels.
fn enlarged(image: &RgbImage8, side: u32) -> Cow<'_, RgbImage8> {
    let RgbImage8 { width_px, height_px, .. } = *image;
    let shorter = width_px.min(height_px);
    if shorter >= side {
        return Cow::Borrowed(image);
    }
    let scaled = |px: u32| (f64::from(px) * f64::from(side) / f64::from(shorter)).round() as u32;
    Cow::Owned(resize_as_pillow(image, scaled(width_px), scaled(height_px), PillowFilter::Bilinear))
}

/// The square of `side` pixels at a place that `down` and `right`, in [0, 1), choose.
fn cut(image: &RgbImage8, side: u32, down: f64, right: f64) -> RgbImage8 {
    let first = |at: f64, px: u32| (at * f64::from(px - side + 1)) as usize;
    let (top, left) = (first(down, image.height_px), first(right, image.width_px));
    let (row_bytes, n) = (3 * image.width_px as usize, side as usize);
    let rows = image.pixels.chunks_exact(row_bytes).skip(top).take(n);
    let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + n)]).copied().collect();
    RgbImage8 { width_px: side, height_px: side, pixels }
}

fn flip_columns(image: &mut RgbImage8) {
    let width = image.width_px as usize;
    for row in image.pixels.chunks_exact_mut(3 * width) {
        for column in 0..width / 2 {
            for channel in 0..3 {
                row.swap(3 * column + channel, 3 * (width - 1 - column) + channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(width_px: u32, height_px: u32) -> RgbImage8 {
        let levels = 0..(width_px * height_px) as u8;
        RgbImage8 { width_px, height_px, pixels: levels.flat_map(|level| [level; 3]).collect() }
    }

    fn levels(image: &RgbImage8) -> Vec<u8> {
        image.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn crops_reach_every_edge_and_flips_swap_left_and_right() {
        let image = counted(4, 3);
        assert_eq!(levels(&cut(&image, 2, 0.0, 0.0)), [0, 1, 4, 5]);
        assert_eq!(levels(&cut(&image, 2, 0.999, 0.999)), [6, 7, 10, 11]);
        let mut flipped = image.clone();
        flip_columns(&mut flipped);
        assert_eq!(levels(&flipped), [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]);
    }

    #[test]
    fn a_small_picture_is_enlarged_to_the_crop() {
        let image = counted(4, 3);
        let larger = enlarged(&image, 6);
        assert_eq!((larger.width_px, larger.height_px), (8, 6));
        assert_eq!(*enlarged(&counted(4, 3), 3), counted(4, 3));
    }
}
