//! Networks of extractors whose weights a training can change: from the features that one of them made to the network
//! itself, and from the trained network to an extractor again.

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use super::clip::{self, ClipOptions, ClipSettings};
use super::dinov2::{self, Dinov2Options, Dinov2Settings};
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorKind as _, ExtractorName, FeatureSettings,
    NetworkSettings,
};
use agiqa_images::RgbImage8;
use agiqa_nets::device::Normalisation;
use agiqa_nets::layers::{NamedTensors, NetworkError};
use agiqa_nets::pixels::{IMAGENET_MEAN, IMAGENET_STD};
use agiqa_nets::trained_head::tensors_to_bytes;
use agiqa_nets::vit::{Vit, VitConfig};
use agiqa_store::tables::features::FeatureSet;

/// Features whose network cannot be trained.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum BackboneError {
    /// The features are not those of a vision transformer.
    #[error(
        "features `{semantic}` and `{quality}`: fine-tuning takes the semantic and the quality features of one extractor \
         with one list of settings, `clip-b16` or `dinov2-s14`"
    )]
    NoBackbone { semantic: String, quality: String },
    /// The features were made by other weights.
    #[error(
        "features `{features}` are not those of {weights}: give `weights` the folder of the weights that they were \
         computed with, or compute features with the fetched weights", weights = weights.as_ref().map_or(
            "the fetched weights".to_owned(), |folder| format!("the weights in `{}`", folder.display())
        )
    )]
    OtherWeights { features: String, weights: Option<PathBuf> },
    /// The features have no such side.
    #[error("`side = {side}`: the features have {}; compute features at that side, or take one of these", known.join(", "))]
    NoSide { side: u32, known: Vec<String> },
    /// The extractor does not accept its settings.
    #[error(transparent)]
    Extract(#[from] ExtractError),
}

/// An extractor: its checked settings, and those of its options that the trained network keeps.
#[derive(Clone, Debug)]
enum Network {
    Clip(Box<ClipSettings>, ClipOptions),
    Dinov2(Box<Dinov2Settings>),
}

/// The network that made a pair of feature sets, at one of their sides.
#[derive(Clone, Debug)]
pub(crate) struct Backbone {
    network: Network,
    common: CommonSettings,
    side_px: u32,
    /// Names of its columns at that side: f_a, f_b, f_1.
    columns: [String; 3],
}

fn name_of(set: &FeatureSet) -> String {
    format!("{}@{}", set.extractor, set.fingerprint.short())
}

impl Backbone {
    /// The network that made the features `sets`, semantic and quality. `weights` is the folder of its weights, if they are
    /// not the fetched ones. `side` is one of the features' sides; default: the first.
    pub(crate) fn of(
        sets: [&FeatureSet; 2],
        weights: Option<&Path>,
        side: Option<u32>,
        device: DeviceChoice,
    ) -> Result<Self, BackboneError> {
        let [semantic, quality] = sets;
        let no_backbone = || BackboneError::NoBackbone { semantic: name_of(semantic), quality: name_of(quality) };
        let name: Option<ExtractorName> = semantic.extractor.as_str().parse().ok();
        let weights = weights.map(Path::to_owned);
        let common = CommonSettings { device, ..CommonSettings::default() };
        let (network, sides_px, made) = match name.filter(|_| semantic.extractor == quality.extractor) {
            Some(ExtractorName::ClipB16) => {
                let options = ClipSettings::options_of(sets.map(|set| &set.settings)).ok_or_else(no_backbone)?;
                let options = ClipOptions { weights: weights.clone(), ..options };
                let settings = ClipSettings::new(&options, &common)?;
                let (sides_px, made) = (settings.plan.sides_px.clone(), settings.feature_sets());
                (Network::Clip(Box::new(settings), options), sides_px, made)
            }
            Some(ExtractorName::Dinov2S14) => {
                let side_px = semantic.settings["side_px"].as_u64().and_then(|side_px| u32::try_from(side_px).ok());
                let dtype = serde_json::from_value(semantic.settings["dtype"].clone()).ok();
                let side = Some(side_px.ok_or_else(no_backbone)?);
                let options = Dinov2Options { weights: weights.clone(), side, dtype };
                let settings = Dinov2Settings::new(&options, &common)?;
                let (sides_px, made) = (vec![settings.side_px], settings.feature_sets());
                (Network::Dinov2(Box::new(settings)), sides_px, made)
            }
            Some(ExtractorName::Maniqa | ExtractorName::MplugOwl2 | ExtractorName::Nss) | None => {
                return Err(no_backbone());
            }
        };
        if !made.iter().map(|set| set.fingerprint).eq(sets.map(|set| set.fingerprint)) {
            return Err(BackboneError::OtherWeights { features: name_of(semantic), weights });
        }
        let side_px = side.unwrap_or(sides_px[0]);
        if !sides_px.contains(&side_px) {
            let known = sides_px.iter().map(|side_px| format!("{side_px} px")).collect();
            return Err(BackboneError::NoSide { side: side_px, known });
        }
        let columns = ["f_a", "f_b", "f_1"].map(|column| match side_px == sides_px[0] {
            true => column.to_owned(),
            false => format!("{column}_{side_px}"),
        });
        Ok(Self { network, common, side_px, columns })
    }

    /// Name of its extractor.
    pub(crate) fn name(&self) -> ExtractorName {
        match &self.network {
            Network::Clip(..) => ExtractorName::ClipB16,
            Network::Dinov2(..) => ExtractorName::Dinov2S14,
        }
    }

    /// Geometry of the transformer.
    pub(crate) fn config(&self) -> VitConfig {
        match &self.network {
            Network::Clip(settings, _) => settings.config.clone(),
            Network::Dinov2(..) => agiqa_nets::dinov2::vit_s14(),
        }
    }

    /// Number of blocks that its features read.
    pub(crate) fn n_blocks(&self) -> usize {
        match &self.network {
            Network::Clip(settings, _) => settings.plan.n_blocks(),
            Network::Dinov2(..) => dinov2::n_blocks(),
        }
    }

    /// Side of its input, pixels.
    pub(crate) fn side_px(&self) -> u32 {
        self.side_px
    }

    /// Whether its features are the mean over an image and its mirror image.
    pub(crate) fn mirror(&self) -> bool {
        match &self.network {
            Network::Clip(settings, _) => settings.plan.mirror,
            Network::Dinov2(..) => false,
        }
    }

    /// Names of its columns: f_a, f_b, f_1.
    pub(crate) fn columns(&self) -> &[String; 3] {
        &self.columns
    }

    /// Its weights, under timm's names, in f32 on the CPU.
    ///
    /// # Errors
    /// Weights are absent or damaged.
    pub(crate) fn tensors(&self) -> Result<NamedTensors, ExtractError> {
        match &self.network {
            Network::Clip(settings, _) => settings.tensors(),
            Network::Dinov2(settings) => settings.tensors(),
        }
    }

    /// How an image becomes its square of pixels.
    pub(crate) fn resize(&self) -> fn(&RgbImage8, u32) -> Vec<u8> {
        match &self.network {
            Network::Clip(..) => clip::resized,
            Network::Dinov2(..) => |image, side_px| dinov2::resized(image, side_px).pixels,
        }
    }

    /// How its pixels become its input, on `device`.
    pub(crate) fn normalisation(&self, device: Device) -> Normalisation {
        let (mean, std) = match &self.network {
            Network::Clip(..) => (agiqa_nets::clip::MEAN, agiqa_nets::clip::STD),
            Network::Dinov2(..) => (IMAGENET_MEAN, IMAGENET_STD),
        };
        Normalisation::new(mean, std, device)
    }

    /// f_a, f_b and f_1 of a batch by `vit`, `(b, d)` each, without mirror images. `multipliers` are those of
    /// [`Vit::forward_dropping`].
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, from [`Self::normalisation`]
    pub(crate) fn pooled(
        &self,
        vit: &Vit,
        pixels: &Tensor,
        multipliers: impl Fn(usize, usize) -> Option<Tensor>,
    ) -> [Tensor; 3] {
        match &self.network {
            Network::Clip(settings, _) => settings.plan.pooled(vit, pixels, multipliers),
            Network::Dinov2(..) => dinov2::pooled(vit, pixels, multipliers),
        }
    }

    /// The files of a folder that the extractor's setting `weights` takes, by name, of the network with `tensors`.
    ///
    /// # Errors
    /// A tensor is absent.
    pub(crate) fn files(&self, tensors: &NamedTensors) -> Result<Vec<(&'static str, Vec<u8>)>, NetworkError> {
        let (json, mut named) = match &self.network {
            Network::Clip(settings, _) => {
                let (json, named) = agiqa_nets::clip::hugging_face(&settings.config, tensors)?;
                (Some(json), named)
            }
            Network::Dinov2(..) => {
                let of_vit = self.config().parameters().into_iter();
                (None, of_vit.map(|(name, _)| (name.clone(), tensors[&name].shallow_clone())).collect())
            }
        };
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let named: Vec<(String, &Tensor)> = named.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        let json = json.map(|json| ("config.json", serde_json::to_vec_pretty(&json).expect("sizes are plain data")));
        let weights = ("model.safetensors", tensors_to_bytes(&named, std::collections::HashMap::new()));
        Ok(json.into_iter().chain([weights]).collect())
    }

    /// The extractor over the trained weights in `folder`, at `sides_px`.
    pub(crate) fn extractor(&self, folder: PathBuf, sides_px: Vec<u32>, mirror: bool, dtype: Dtype) -> FeatureSettings {
        let network = match &self.network {
            Network::Clip(_, options) => NetworkSettings::ClipB16(ClipOptions {
                weights: Some(folder),
                sides: Some(sides_px),
                mirror: Some(mirror),
                dtype: Some(dtype),
                ..options.clone()
            }),
            Network::Dinov2(..) => NetworkSettings::Dinov2S14(Dinov2Options {
                weights: Some(folder),
                side: sides_px.first().copied(),
                dtype: Some(dtype),
            }),
        };
        FeatureSettings { network, common: self.common.clone() }
    }

    /// Whether its extractor takes several sides and mirror images.
    pub(crate) fn takes_sides_and_mirror(&self) -> bool {
        matches!(self.network, Network::Clip(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::feature_sets;
    use agiqa_images::DecodeLimits;
    use agiqa_nets::maniqa::{Maniqa, ManiqaConfig, Mode};
    use tch::Kind;

    const TYPES: [(&str, Kind); 2] = [("f16", Kind::Half), ("bf16", Kind::BFloat16)];

    /// Pictures of the folder `AGIQA_IMAGES`, or of `data.example`: `n` of them, evenly spaced in the order of names.
    fn pictures(n: usize) -> Vec<RgbImage8> {
        let folder = std::env::var("AGIQA_IMAGES").unwrap_or_else(|_| "data.example/images".to_owned());
        let files =
            std::fs::read_dir(&folder).expect("a folder of pictures").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<PathBuf> = files.collect();
        files.sort();
        let chosen = files.iter().step_by((files.len() / n).max(1)).take(n);
        let decoded = |path: &PathBuf| {
            let bytes = std::fs::read(path).expect("a picture");
            agiqa_images::decode(&bytes, &DecodeLimits::default()).expect("a picture").1
        };
        chosen.map(decoded).collect()
    }

    fn batch(pictures: &[RgbImage8], side: u32, resize: impl Fn(&RgbImage8, u32) -> Vec<u8>) -> Tensor {
        let pixels: Vec<u8> = pictures.iter().flat_map(|picture| resize(picture, side)).collect();
        Tensor::from_slice(&pixels).view([-1, i64::from(side), i64::from(side), 3])
    }

    /// Prints the greatest error of `found`, relative to the greatest value of `expected`, and the least cosine between
    /// their rows, `(n, d)`.
    fn print_loss(words: &str, expected: &Tensor, found: &Tensor) {
        let (expected, found) = (expected.to_kind(Kind::Double), found.to_kind(Kind::Double));
        let error = (&found - &expected).abs().max() / expected.abs().max();
        let norm = |xs: &Tensor| xs.square().sum_dim_intlist([1_i64].as_slice(), false, Kind::Double).sqrt();
        let products = (&found * &expected).sum_dim_intlist([1_i64].as_slice(), false, Kind::Double);
        let cosine = (products / (norm(&found) * norm(&expected))).min();
        println!("| {words} | {:.1e} | {:.6} |", error.double_value(&[]), cosine.double_value(&[]));
        assert!(error.double_value(&[]) < 0.5, "{words}: these are other numbers");
    }

    #[test]
    #[ignore = "prints what products of 16 bits lose, in minutes: a CPU computes f16 slowly"]
    fn what_products_of_16_bits_lose() {
        let _no_grad = tch::no_grad_guard();
        let pictures = pictures(16);
        println!("| extractor, type, column | error | least cosine |\n|---|---|---|");
        let networks =
            [NetworkSettings::ClipB16(ClipOptions::default()), NetworkSettings::Dinov2S14(Dinov2Options::default())];
        for network in networks {
            let common = CommonSettings { device: DeviceChoice::Cpu, ..CommonSettings::default() };
            let made = feature_sets(&FeatureSettings { network, common }).expect("`agiqa weights fetch` was run");
            let backbone =
                Backbone::of([&made.semantic, &made.quality], None, None, DeviceChoice::Cpu).expect("its own");
            let tensors = backbone.tensors().expect("fetched weights");
            let pixels = batch(&pictures, backbone.side_px(), backbone.resize());
            let pixels = backbone.normalisation(Device::Cpu).forward(&pixels);
            let columns = |kind| {
                let vit = Vit::new(&backbone.config(), &tensors, Device::Cpu, kind).expect("its weights");
                backbone.pooled(&vit, &pixels, |_, _| None)
            };
            let exact = columns(Kind::Float);
            for (name, kind) in TYPES {
                for ((column, exact), found) in backbone.columns().iter().zip(&exact).zip(columns(kind)) {
                    print_loss(&format!("{}, {name}, {column}", backbone.name()), exact, &found);
                }
            }
        }
        let config = ManiqaConfig::vit_b8();
        // Attention that is not one-hot, and scores that the ReLU before them keeps, as a trained network has them.
        let invented = |(name, shape): (String, Vec<i64>)| {
            let values = Tensor::from_slice(&agiqa_synth::values(&name, &shape, 20)).view(shape.as_slice());
            let values = match name.as_str() {
                "conv1.weight" | "fc_weight.3.weight" => values * 0.25,
                "fc_score.3.bias" => values + 3.0,
                name if name.ends_with("c_q.weight") || name.ends_with("c_k.weight") => values * 0.5,
                _ => values,
            };
            (name, values)
        };
        let tensors: NamedTensors = config.parameters().into_iter().map(invented).collect();
        let side = u32::try_from(config.vit.img_size).expect("a side");
        let resize = |image: &RgbImage8, side| agiqa_images::interpolate_bicubic(image, side, side).pixels;
        let pixels = batch(&pictures[..2], side, resize);
        let pixels = Normalisation::new(config.pixel_mean, config.pixel_std, Device::Cpu).forward(&pixels);
        let f_1 = |kind| {
            let network = Maniqa::new(&config, &tensors, Device::Cpu, kind).expect("its weights");
            network.forward(&pixels, Mode::Evaluate).f_1
        };
        let exact = f_1(Kind::Float);
        for (name, kind) in TYPES {
            print_loss(&format!("maniqa (invented weights, 2 pictures), {name}, f_1"), &exact, &f_1(kind));
        }
    }
}
