//! StairIQA (Sun et al., "Blind Quality Assessment for in-the-Wild Images via Hierarchical Feature Fusion", JSTSP 2023,
//! arXiv 2105.14550). Stairs of convolutions carry each level of a ResNet-50 down to the last one.
//!
//! ```text
//! v_0 = stem, v_i = layer i;  s_1 = H_11(v_0)
//! level i = 2, 3, 4: s_j ← H_ij(s_j + v_{i-1}) for j < i, and a new s_i = H_ii(v_{i-1})
//! rating = linear(linear(mean over positions of v_4 + s_1 + s_2 + s_3 + s_4)), averaged over five crops
//! ```
//!
//! Semantics are those of the authors' code (commit 0ed6d09). Nothing stands between the convolutions of a stair,
//! between the two linear layers, or behind the sum. The published files have six heads, one per dataset; the training
//! code makes one.

use std::sync::Arc;

use agiqa_images::{PillowFilter, RgbImage8, resize_as_pillow};
use tch::{Kind, Tensor};

use super::native::one_crop;
use super::start::{Learned, RESNET50_V2, Trunk};
use super::{Architecture, Layout, Prepare, Prepared, Rater, Stored, Unfit};
use crate::checkpoint::CheckpointError;
use crate::conv::{Conv, Kernel, Watch};
use crate::layers::{Linear, Parameters};
use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};
use crate::resnet::{ResNet, ResNetSizes, Style};

/// Levels of the trunk, and of the stairs.
const N_LEVELS: usize = 4;

/// The heads of the published files, in their order, by the dataset that each was trained on. The default comes first
/// in [`VARIANTS`].
const HEADS: [&str; 6] = ["flive", "flive-patch", "live-challenge", "koniq10k", "spaq", "bid"];

/// The names of the heads, the default first.
pub(super) const VARIANTS: &[&str] = &["koniq10k", "flive", "flive-patch", "live-challenge", "spaq", "bid"];

/// The head of FLIVE's whole images, and that of its patches, which were trained on other sizes.
const FLIVE: &str = HEADS[0];
const FLIVE_PATCH: &str = HEADS[1];

/// Published width of the head's first layer.
const HIDDEN: i64 = 128;

/// Sizes of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    trunk: ResNetSizes,
    head: Head,
    /// Width of the head's first layer.
    hidden: i64,
    crops: FiveCrops,
}

/// The name of the head.
#[derive(Clone, Copy, Debug)]
enum Head {
    /// One of several, by its number.
    Numbered(usize),
    Sole,
}

/// Three convolutions of a stair.
#[derive(Debug)]
struct Stair([Conv; 3]);

impl Stair {
    fn new<P: Parameters>(p: &P, d_in: i64, d_out: i64, stride: i64) -> Result<Self, P::Error> {
        let d_middle = d_in / 4;
        Ok(Self([
            Conv::without_bias(&p.below(0), d_in, d_middle, Kernel::ONE)?,
            Conv::without_bias(&p.below(1), d_middle, d_middle, Kernel::THREE.every(stride))?,
            Conv::without_bias(&p.below(2), d_middle, d_out, Kernel::ONE)?,
        ]))
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.0.iter().fold(xs.shallow_clone(), |xs, conv| conv.forward(&xs))
    }
}

/// The network.
#[derive(Debug)]
pub(crate) struct StairIqa {
    trunk: ResNet,
    /// Per level, the stairs that begin at it or above.
    stairs: Vec<Vec<Stair>>,
    head: [Linear; 2],
    crops: FiveCrops,
}

impl Architecture for StairIqa {
    type Sizes = Sizes;

    const LAYOUTS: &'static [Layout] = &[
        Layout {
            landmark: "feature_extraction_stem.0.weight",
            renamed: &[
                ("conv1.", "feature_extraction_stem.0."),
                ("bn1.", "feature_extraction_stem.1."),
                ("layer1.", "feature_extraction1.4."),
                ("layer2.", "feature_extraction2.5."),
                ("layer3.", "feature_extraction3.6."),
                ("layer4.", "feature_extraction4.7."),
            ],
        },
        Layout::plain("hyper1_1.0.weight"),
    ];

    fn sizes(stored: &Stored, variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        let variant = variant.unwrap_or(VARIANTS[0]);
        let head = match stored.has("quality.0.weight") {
            true => Head::Sole,
            false => Head::Numbered(HEADS.iter().position(|head| *head == variant).unwrap_or_default() + 1),
        };
        let [hidden, _] = stored.shape::<2>(&format!("{}.0.weight", head.name()))?;
        Ok(Sizes {
            trunk: ResNetSizes::of(stored, "", N_LEVELS, Style::Torchvision)?,
            head,
            hidden,
            crops: FiveCrops::of(variant),
        })
    }

    fn new<P: Parameters>(p: &P, sizes: &Sizes) -> Result<Self, P::Error> {
        let mut stairs = Vec::with_capacity(N_LEVELS);
        for level in 1..=N_LEVELS {
            let d_out = sizes.trunk.channels(level);
            let (d_in, stride) = match level {
                1 => (sizes.trunk.width, 1),
                _ => (sizes.trunk.channels(level - 1), 2),
            };
            let stair = |j| Stair::new(&p.below(format_args!("hyper{level}_{j}")), d_in, d_out, stride);
            stairs.push((1..=level).map(stair).collect::<Result<_, _>>()?);
        }
        let head = p.below(sizes.head.name());
        let d_pooled = sizes.trunk.channels(N_LEVELS);
        Ok(Self {
            trunk: ResNet::new(p, &sizes.trunk)?,
            stairs,
            head: [Linear::new(&head.below(0), d_pooled, sizes.hidden)?, Linear::new(&head.below(1), sizes.hidden, 1)?],
            crops: sizes.crops,
        })
    }
}

impl Learned for StairIqa {
    const TRUNKS: &'static [(&'static str, &'static Trunk)] = &[("", &RESNET50_V2)];

    const DRAWN: &'static [&'static str] = &["hyper", "quality"];

    fn on(trunks: &[Stored<'_>], _variant: Option<&str>) -> Result<Sizes, CheckpointError> {
        Ok(Sizes {
            trunk: ResNetSizes::of(&trunks[0], "", N_LEVELS, Style::Torchvision)?,
            head: Head::Sole,
            hidden: HIDDEN,
            crops: FiveCrops::of(VARIANTS[0]),
        })
    }
}

impl Head {
    fn name(self) -> String {
        match self {
            Self::Numbered(number) => format!("quality{number}"),
            Self::Sole => "quality".to_owned(),
        }
    }
}

impl StairIqa {
    /// The rating of each crop.
    ///
    /// # Shapes
    /// - crops: `(n, 3, h, w)`, normalised
    /// - returns: `(n,)`
    pub(crate) fn forward(&self, crops: &Tensor, watch: Watch<'_>) -> Tensor {
        let mut xs = self.trunk.stem(crops, watch);
        let mut running: Vec<Tensor> = Vec::with_capacity(N_LEVELS);
        for (level_idx, stairs) in self.stairs.iter().enumerate() {
            for (j, stair) in stairs.iter().enumerate() {
                match running.get_mut(j) {
                    Some(sum) => *sum = stair.forward(&(&*sum + &xs)),
                    None => running.push(stair.forward(&xs)),
                }
                watch(&format!("hyper{}_{}", level_idx + 1, j + 1), &running[j]);
            }
            xs = self.trunk.layer(level_idx + 1, &xs, watch);
        }
        let sum = running.iter().fold(xs, |sum, stair| sum + stair);
        watch("sum", &sum);
        let pooled = sum.mean_dim([2_i64, 3].as_slice(), false, Kind::Float); // (n, d)
        watch("pooled", &pooled);
        self.head.iter().fold(pooled, |xs, linear| linear.forward_in_f32(&xs)).flatten(0, -1)
    }
}

impl Rater for StairIqa {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        Arc::new(self.crops)
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let crops = self.forward(&inputs.flatten(0, 1), &mut |_, _| {});
        crops.view([inputs.size()[0], -1]).mean_dim([1_i64].as_slice(), false, Kind::Float)
    }
}

/// The four corners and the centre of the picture whose shorter side has been resized as Pillow does, bilinear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FiveCrops {
    /// Shorter side of the resized picture.
    shorter: u32,
    /// Side of a crop.
    side: u32,
    /// Mean and standard deviation of the levels, on a scale of 0 to 1, of red, green and blue.
    mean: [f32; 3],
    std: [f32; 3],
}

impl FiveCrops {
    /// The crops that the head `variant` was trained on.
    pub(crate) fn of(variant: &str) -> Self {
        let (shorter, side) = match variant {
            FLIVE => (340, 320),
            FLIVE_PATCH => (256, 224),
            _ => (384, 320),
        };
        Self { shorter, side, mean: IMAGENET_MEAN, std: IMAGENET_STD }
    }

    /// The same crops with levels of another mean and standard deviation than ImageNet's.
    pub(super) fn normalised_by(self, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self { mean, std, ..self }
    }

    /// The resized picture.
    pub(crate) fn resized(&self, image: &RgbImage8) -> Result<RgbImage8, Unfit> {
        let RgbImage8 { width_px, height_px, .. } = *image;
        // Truncated, as torchvision does. Products of two u32 and an f64's 53 bits: the quotient is exact enough.
        let longer = |long: u32, short: u32| {
            let exact = f64::from(self.shorter) * f64::from(long) / f64::from(short);
            exact as u32
        };
        let (width, height) = match width_px <= height_px {
            true => (self.shorter, longer(height_px, width_px)),
            false => (longer(width_px, height_px), self.shorter),
        };
        Unfit::check_seen(image, height as usize, width as usize)?;
        Ok(resize_as_pillow(image, width, height, PillowFilter::Bilinear))
    }

    /// Row and column of the first pixel of each crop.
    pub(crate) fn places(&self, resized: &RgbImage8) -> [(usize, usize); 5] {
        let (down, right) = ((resized.height_px - self.side) as usize, (resized.width_px - self.side) as usize);
        // Python rounds halves to the even number.
        let centre = |room: usize| (room as f64 / 2.0).round_ties_even() as usize;
        [(0, 0), (0, right), (down, 0), (down, right), (centre(down), centre(right))]
    }
}

impl Prepare for FiveCrops {
    fn has_one_shape(&self) -> bool {
        true
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        let resized = self.resized(image)?;
        let planes = Planes::of(&resized, self.mean, self.std);
        let side = self.side as usize;
        let places = self.places(&resized);
        let mut values = Vec::with_capacity(places.len() * 3 * side * side);
        for (top, left) in places {
            planes.append_crop(top, left, side, &mut values);
        }
        let side = i64::from(self.side);
        Ok(Prepared { values, shape: vec![places.len() as i64, 3, side, side] })
    }

    fn kept(&self, image: RgbImage8) -> Result<RgbImage8, Unfit> {
        self.resized(&image)
    }

    fn whole(&self, crop: &RgbImage8) -> Result<Prepared, Unfit> {
        Ok(one_crop(crop, self.mean, self.std))
    }
}
