//! Rating networks that are to be trained: their first weights come from a checkpoint of the whole network, or from
//! trunks that were trained on other tasks and are placed by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind};

use super::dbcnn::Dbcnn;
use super::efficientnet::EfficientNet;
use super::file::another;
use super::hyperiqa::HyperIqa;
use super::musiq::Musiq;
use super::resnet50::ResNet50;
use super::saan::Saan;
use super::stairiqa::StairIqa;
use super::weights::Parts;
use super::{Architecture, Build, Layout, Prepare, Rater, RaterError, RaterName, Stored, build_of, listed};
use crate::checkpoint::{Checkpoint, CheckpointError, Wanted};
use crate::layers::{NamedTensors, NetworkError, Phase, TensorScope};
use agiqa_weights::{Weights, WeightsError};

/// Why a training of a rating network cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum StartError {
    /// The weights cannot be used.
    #[error(transparent)]
    Rater(#[from] RaterError),
    /// A trunk that the program fetches is absent or damaged.
    #[error(transparent)]
    Fetched(#[from] WeightsError),
    /// A trunk's file is absent.
    #[error(
        "a training of `{network}` starts from the weights {trunk}, which {} lacks: {}; `--weights` (in a pipeline, \
         `weights` in `[train.rater]`) names another folder of such files, or a checkpoint of `{network}`{}",
        folder.display(), trunk.recommended().how_to_get(), alternatives(trunk)
    )]
    Absent { network: RaterName, trunk: &'static Trunk, folder: PathBuf },
    /// A trunk's file holds another network.
    #[error("{} does not hold the weights {trunk}: it has no tensor `{}`", path.display(), trunk.layout.landmark)]
    OtherTrunk { path: PathBuf, trunk: &'static Trunk },
    /// The network cannot be trained here.
    #[error("`{network}` is not trained here: expected {}", names(RaterStart::NETWORKS))]
    NotTrained { network: RaterName },
}

impl From<CheckpointError> for StartError {
    fn from(source: CheckpointError) -> Self {
        Self::Rater(source.into())
    }
}

fn alternatives(trunk: &Trunk) -> String {
    let files: Vec<&str> = trunk.files().skip(1).collect();
    match files.as_slice() {
        [] => String::new(),
        files => format!("; {} would do, but may give other results", files.join(" or ")),
    }
}

fn names(networks: &[RaterName]) -> String {
    networks.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Published weights of a part of a network.
#[derive(Debug)]
pub struct Trunk {
    /// The weights that fit, by name, the recommended first.
    weights: &'static [&'static str],
    layout: Layout,
}

impl Trunk {
    fn all(&self) -> impl Iterator<Item = &'static Weights> {
        self.weights.iter().map(|name| agiqa_weights::find(name).expect("a test finds all trunks"))
    }

    fn recommended(&self) -> &'static Weights {
        self.all().next().expect("a trunk has weights")
    }

    /// Names of their files.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.all().map(|weights| match weights.published() {
            Some(published) => published.file.as_str(),
            None => weights.files[0].path.to_str().expect("the manifest is text"),
        })
    }

    /// Its file in `folder`.
    fn file_in(&self, folder: &Path) -> Option<PathBuf> {
        self.files().map(|file| folder.join(file)).find(|path| path.is_file())
    }

    /// Its file in the weights folder, if there is one. Weights that the program fetches are verified.
    fn placed(&self) -> Result<Option<PathBuf>, WeightsError> {
        for weights in self.all() {
            let Some(published) = weights.published() else { return agiqa_weights::locate(&weights.name).map(Some) };
            let path = published.path();
            if path.is_file() {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Trunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Weights { name, about, .. } = self.recommended();
        write!(f, "`{name}` ({about})")
    }
}

const RESNET: Layout = Layout::plain("layer1.0.conv1.weight");
const CONVOLUTIONS: Layout = Layout { landmark: "features.0.weight", renamed: &[("", "features.")] };

/// torchvision's ResNet-50, `IMAGENET1K_V1`.
pub(crate) static RESNET50_V1: Trunk =
    Trunk { weights: &["resnet50-v1", "resnet50-v1-older", "resnet50-v2"], layout: RESNET };

/// torchvision's ResNet-50, `IMAGENET1K_V2`.
pub(crate) static RESNET50_V2: Trunk =
    Trunk { weights: &["resnet50-v2", "resnet50-v1", "resnet50-v1-older"], layout: RESNET };

/// torchvision's VGG-16.
pub(crate) static VGG16: Trunk = Trunk { weights: &["vgg16"], layout: CONVOLUTIONS };

/// torchvision's VGG-19.
pub(crate) static VGG19: Trunk = Trunk { weights: &["vgg19"], layout: CONVOLUTIONS };

/// The S-CNN of DBCNN's authors.
pub(crate) static S_CNN: Trunk = Trunk { weights: &["scnn", "scnn-pyiqa"], layout: CONVOLUTIONS };

/// MUSIQ, trained on ImageNet.
pub(crate) static MUSIQ: Trunk =
    Trunk { weights: &["musiq-imagenet"], layout: Layout::plain("transformer_encoder.posembed_input.position_emb") };

/// EfficientNet-Lite0, which the program fetches.
pub(crate) static EFFICIENTNET_LITE0: Trunk =
    Trunk { weights: &["efficientnet-lite0"], layout: Layout::plain("_conv_head.weight") };

/// A rating network that can be trained.
pub(crate) trait Learned: Architecture {
    /// The trunks, each with the beginning of the network's names of its tensors.
    const TRUNKS: &'static [(&'static str, &'static Trunk)];

    /// Beginnings of the names of tensors that no trunk has. The seed draws them.
    const DRAWN: &'static [&'static str];

    /// Beginnings of the names of tensors that stay as they are.
    const FROZEN: &'static [&'static str] = &[];

    /// The sizes of the network on `trunks`, in the order of [`Self::TRUNKS`], with the published sizes elsewhere.
    fn on(trunks: &[Stored<'_>], variant: Option<&str>) -> Result<Self::Sizes, CheckpointError>;

    /// The sizes of the network that is trained from a checkpoint of a network of `sizes`.
    fn with_one_output(sizes: Self::Sizes) -> Self::Sizes {
        sizes
    }
}

/// The first weights of a network, found complete.
pub struct RaterStart {
    parts: Parts,
    parameters: BTreeMap<String, Vec<i64>>,
    frozen: &'static [&'static str],
    preprocessor: Arc<dyn Prepare>,
    build: Build,
}

impl RaterStart {
    /// The networks that can be trained.
    pub const NETWORKS: &'static [RaterName] = &[
        RaterName::HyperIqa,
        RaterName::Dbcnn,
        RaterName::StairIqa,
        RaterName::Baid,
        RaterName::Musiq,
        RaterName::ResNet50,
        RaterName::EfficientNetLite0,
    ];

    /// Opens the first weights of the network `name`: a checkpoint of it or of its only trunk, or a folder with the
    /// files of its trunks, at `weights`; without `weights`, the trunks in the weights folder. Reads no values.
    ///
    /// # Errors
    /// A file is absent, damaged, or a checkpoint of another network or geometry.
    pub fn open(name: RaterName, variant: Option<&str>, weights: Option<&Path>) -> Result<Self, StartError> {
        match name {
            RaterName::HyperIqa => Self::of::<HyperIqa>(name, variant, weights),
            RaterName::Dbcnn => Self::of::<Dbcnn>(name, variant, weights),
            RaterName::StairIqa => Self::of::<StairIqa>(name, variant, weights),
            RaterName::Baid => Self::of::<Saan>(name, variant, weights),
            RaterName::Musiq => Self::of::<Musiq>(name, variant, weights),
            RaterName::ResNet50 => Self::of::<ResNet50>(name, variant, weights),
            RaterName::EfficientNetLite0 => Self::of::<EfficientNet>(name, variant, weights),
            RaterName::ClipIqa | RaterName::ClipIqaPlus | RaterName::QAlign => {
                Err(StartError::NotTrained { network: name })
            }
        }
    }

    fn of<N: Learned>(name: RaterName, variant: Option<&str>, weights: Option<&Path>) -> Result<Self, StartError> {
        let Some(path) = weights else { return Self::on_trunks::<N>(name, variant, None) };
        if N::TRUNKS.iter().any(|(_, trunk)| trunk.file_in(path).is_some()) {
            return Self::on_trunks::<N>(name, variant, Some(path));
        }
        let checkpoint = N::adopt(Checkpoint::find(path).map_err(RaterError::from)?)?;
        if let Some(stored) = Stored::find(&checkpoint, N::LAYOUTS) {
            let sizes = N::with_one_output(N::sizes(&stored, variant)?);
            let listed = listed::<N>(&sizes);
            // A head of another size is left, and drawn.
            let is_read = |name: &str, shape: &[i64]| {
                !is_below(name, N::DRAWN) || stored.dims(name).is_ok_and(|found| found == shape)
            };
            let read = listed.0.iter().filter(|(name, shape)| is_read(name, shape));
            let read = read.map(|(name, shape)| (name.clone(), shape.clone())).collect();
            let wanted = Wanted::new(&checkpoint, &read, |name| stored.name(name))?;
            return Ok(Self::new::<N>(vec![(checkpoint, wanted)], listed, sizes));
        }
        if let [(_, trunk)] = N::TRUNKS
            && Stored::find(&checkpoint, std::slice::from_ref(&trunk.layout)).is_some()
        {
            return Self::on_files::<N>(vec![checkpoint], variant);
        }
        Err(another::<N>(name, &checkpoint).into())
    }

    /// The network on the trunks whose files are in `folder`, or where the program places them.
    fn on_trunks<N: Learned>(
        name: RaterName,
        variant: Option<&str>,
        folder: Option<&Path>,
    ) -> Result<Self, StartError> {
        let open = |(_, trunk): &(&str, &'static Trunk)| {
            let (path, folder) = match folder {
                Some(folder) => (trunk.file_in(folder), folder.to_owned()),
                None => (trunk.placed()?, trunk.recommended().folder()),
            };
            let path = path.ok_or_else(|| StartError::Absent { network: name, trunk, folder })?;
            Ok(Checkpoint::open(&path).map_err(RaterError::from)?)
        };
        Self::on_files::<N>(N::TRUNKS.iter().map(open).collect::<Result<_, StartError>>()?, variant)
    }

    /// The network on the trunks in `files`, in the order of [`Learned::TRUNKS`].
    fn on_files<N: Learned>(files: Vec<Checkpoint>, variant: Option<&str>) -> Result<Self, StartError> {
        let mut stored: Vec<Stored<'_>> = Vec::with_capacity(files.len());
        for (file, (_, trunk)) in files.iter().zip(N::TRUNKS) {
            let found = Stored::find(file, std::slice::from_ref(&trunk.layout));
            stored.push(found.ok_or_else(|| StartError::OtherTrunk { path: file.path().to_owned(), trunk })?);
        }
        let sizes = N::on(&stored, variant)?;
        let listed = listed::<N>(&sizes);
        let mut wanted = Vec::with_capacity(files.len());
        for ((own, _), (file, stored)) in N::TRUNKS.iter().zip(files.iter().zip(&stored)) {
            // A name belongs to the trunk with the longest beginning of it.
            let is_of_trunk = |name: &str| {
                let longest = N::TRUNKS.iter().map(|(own, _)| *own).filter(|own| name.starts_with(own));
                longest.max_by_key(|own| own.len()) == Some(own)
            };
            let read = listed.0.iter().filter(|(name, _)| is_of_trunk(name) && !is_below(name, N::DRAWN));
            let read = read.map(|(name, shape)| (name.clone(), shape.clone())).collect();
            wanted.push(Wanted::new(file, &read, |name| stored.name(&name[own.len()..]))?);
        }
        drop(stored);
        Ok(Self::new::<N>(files.into_iter().zip(wanted).collect(), listed, sizes))
    }

    fn new<N: Learned>(
        parts: Vec<(Checkpoint, Wanted)>,
        (parameters, network): (BTreeMap<String, Vec<i64>>, N),
        sizes: N::Sizes,
    ) -> Self {
        let preprocessor = network.preprocessor();
        Self { parts: Parts(parts), parameters, frozen: N::FROZEN, preprocessor, build: build_of::<N>(sizes) }
    }

    /// Names and shapes of all tensors of the network.
    pub fn parameters(&self) -> &BTreeMap<String, Vec<i64>> {
        &self.parameters
    }

    /// The files that tensors are read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.0.iter().map(|(checkpoint, _)| checkpoint.path())
    }

    /// Whether the protocol of the network leaves the tensor `name` as it is.
    pub fn is_frozen(&self, name: &str) -> bool {
        is_below(name, self.frozen)
    }

    /// Whether the tensor `name` belongs to a batch norm.
    pub fn is_of_batch_norm(&self, name: &str) -> bool {
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        self.parameters.contains_key(&format!("{layer}.running_mean"))
    }

    /// Whether the tensor `name` is a statistic of a batch norm.
    pub fn is_statistic(&self, name: &str) -> bool {
        name.ends_with(".running_mean") || name.ends_with(".running_var")
    }

    /// What makes the network's inputs of images.
    pub fn preprocessor(&self) -> Arc<dyn Prepare> {
        self.preprocessor.clone()
    }

    /// Hash of the tensors that are read, for fingerprints.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn content_hash(&self) -> Result<String, StartError> {
        Ok(self.parts.content_hash()?)
    }

    /// The tensors that the files hold. The others of [`Self::parameters`] are to be drawn.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self) -> Result<NamedTensors, StartError> {
        Ok(self.parts.read()?)
    }

    /// The network of `tensors`, which are all of [`Self::parameters`]. Tensors that require gradients are shared.
    ///
    /// # Errors
    /// Memory is short.
    pub fn network(
        &self,
        tensors: &NamedTensors,
        device: Device,
        phase: Phase,
    ) -> Result<Box<dyn Rater>, NetworkError> {
        (self.build)(&TensorScope::new(tensors, device, Kind::Float).in_phase(phase))
    }
}

fn is_below(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunks_are_weights_of_the_manifest() {
        for trunk in [&RESNET50_V1, &RESNET50_V2, &VGG16, &VGG19, &S_CNN, &MUSIQ, &EFFICIENTNET_LITE0] {
            assert_eq!(trunk.files().count(), trunk.weights.len(), "{trunk}");
        }
    }
}
