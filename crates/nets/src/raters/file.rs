//! The weights of rating networks in files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::clipiqa::{self, ClipIqa};
use super::dbcnn::Dbcnn;
use super::efficientnet::EfficientNet;
use super::hyperiqa::HyperIqa;
use super::musiq::{self, Musiq};
use super::resnet50::ResNet50;
use super::saan::Saan;
use super::stairiqa::StairIqa;
use super::weights::{Layout, Parts, Stored};
use super::{Architecture, Build, Prepare, Rater, RaterError, RaterName, build_of, parameters, qalign};
use crate::checkpoint::{self, Checkpoint, Wanted};
use crate::device::with_products_of;
use crate::layers::{TensorScope, products_of};

/// The weights of a rating network, found complete.
pub struct RaterFile(Form);

/// Where a network's tensors are.
enum Form {
    /// In checkpoints, each with the tensors that the network reads from it.
    Parts(Parts, Build),
    /// In a folder with settings and a tokenizer.
    Folder(Box<qalign::Folder>),
}

impl RaterFile {
    /// Opens the weights of the network `name` at `path`: a file, or a folder with it. Reads no values.
    ///
    /// # Errors
    /// The file is absent, damaged, or a checkpoint of another network or geometry.
    pub fn open(name: RaterName, variant: Option<&str>, path: &Path) -> Result<Self, RaterError> {
        match name {
            RaterName::HyperIqa => Self::of::<HyperIqa>(name, variant, path),
            RaterName::Dbcnn => Self::of::<Dbcnn>(name, variant, path),
            RaterName::StairIqa => Self::of::<StairIqa>(name, variant, path),
            RaterName::Baid => Self::of::<Saan>(name, variant, path),
            RaterName::Musiq => Self::of::<Musiq>(name, variant, path),
            RaterName::ClipIqa => Self::of::<ClipIqa>(name, variant, path),
            RaterName::ClipIqaPlus => Self::of_clipiqa_plus(path),
            RaterName::ResNet50 => Self::of::<ResNet50>(name, variant, path),
            RaterName::EfficientNetLite0 => Self::of::<EfficientNet>(name, variant, path),
            RaterName::QAlign => Self::of_qalign(variant.unwrap_or_default(), path),
        }
    }

    fn of<N: Architecture>(name: RaterName, variant: Option<&str>, path: &Path) -> Result<Self, RaterError> {
        let checkpoint = N::adopt(Checkpoint::find(path)?)?;
        let Some(stored) = Stored::find(&checkpoint, N::LAYOUTS) else {
            return Err(another::<N>(name, &checkpoint));
        };
        let sizes = N::sizes(&stored, variant)?;
        let wanted = Wanted::new(&checkpoint, &parameters::<N>(&sizes), |name| stored.name(name))?;
        Ok(Self(Form::Parts(Parts(vec![(checkpoint, wanted)]), build_of::<N>(sizes))))
    }

    fn of_qalign(variant: &str, path: &Path) -> Result<Self, RaterError> {
        if !path.join("config.json").exists()
            && let Ok(checkpoint) = Checkpoint::find(path)
            && let Some(looks_like) = looks_like(&checkpoint)
        {
            return Err(RaterError::Another {
                path: path.to_owned(),
                asked: RaterName::QAlign,
                landmarks: vec!["`lm_head.weight` in a folder with config.json".to_owned()],
                looks_like: Some(looks_like),
            });
        }
        Ok(Self(Form::Folder(Box::new(qalign::Folder::open(path, variant)?))))
    }

    /// CLIPIQA+: learned prompts, and CLIP in the same file or in another one of the folder.
    fn of_clipiqa_plus(path: &Path) -> Result<Self, RaterError> {
        let mut files = checkpoint::files_in(path);
        if files.is_empty() {
            files.push(path.to_owned());
        }
        let opened = files.iter().map(|file| Checkpoint::open(file)).collect::<Result<Vec<_>, _>>()?;
        let (prompts, others): (Vec<_>, Vec<_>) =
            opened.into_iter().partition(|checkpoint| clipiqa::learned_in(checkpoint).is_some());
        let absent = |found| RaterError::Prompts { path: path.to_owned(), found };
        let prompts = prompts.into_iter().next().ok_or_else(|| absent("no learned prompts"))?;
        let stored_name = clipiqa::learned_in(&prompts).unwrap_or_default();
        let is_clip = |checkpoint: &Checkpoint| Stored::find(checkpoint, ClipIqa::LAYOUTS).is_some();
        let clip = match others.into_iter().find(is_clip) {
            Some(clip) => clip,
            None => Checkpoint::open(prompts.path())?,
        };
        let stored = Stored::find(&clip, ClipIqa::LAYOUTS).ok_or_else(|| absent("no checkpoint of CLIP's RN50"))?;
        let shape = prompts.info(&stored_name)?.shape.clone();
        let sizes = ClipIqa::sizes(&stored, None)?.with_learned(shape);
        let is_learned = |(name, _): &(String, Vec<i64>)| name == clipiqa::LEARNED;
        let (of_prompts, of_clip): (BTreeMap<_, _>, BTreeMap<_, _>) =
            parameters::<ClipIqa>(&sizes).into_iter().partition(is_learned);
        let wanted = Wanted::new(&clip, &of_clip, |name| stored.name(name))?;
        let learned = Wanted::new(&prompts, &of_prompts, |_| stored_name.clone())?;
        Ok(Self(Form::Parts(Parts(vec![(clip, wanted), (prompts, learned)]), build_of::<ClipIqa>(sizes))))
    }

    /// Hash for fingerprints. It covers the tensors that the network reads, and is equal in all layouts of the same weights.
    /// In a folder with settings and a tokenizer it covers the files: reading gigabytes of tensors each time takes too long.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn content_hash(&self) -> Result<String, RaterError> {
        Ok(match &self.0 {
            Form::Parts(parts, _) => parts.content_hash()?,
            Form::Folder(folder) => agiqa_weights::hash_of_files(&folder.files())?,
        })
    }

    /// The network on `device`, with products in `kind`: f32, bf16 or f16. [`RaterName::QAlign`], a network of gigabytes, keeps
    /// its weights in `kind`. Every other network keeps its weights in f32.
    ///
    /// # Errors
    /// A file cannot be read, or memory is short.
    pub fn load(&self, device: Device, kind: Kind) -> Result<Box<dyn Rater>, RaterError> {
        let _no_grad = tch::no_grad_guard();
        let (parts, build) = match &self.0 {
            Form::Folder(folder) => return Ok(Box::new(folder.load(device, kind)?)),
            Form::Parts(parts, build) => (parts, build),
        };
        let network = build(&TensorScope::new(&parts.read()?, device, Kind::Float))?;
        Ok(match products_of(kind, device) {
            Kind::Float => network,
            kind => Box::new(Rounded { network, kind, device }),
        })
    }
}

/// A network whose products are computed in 16 bits. Norms, softmax and sums over pixels stay in f32.
pub(crate) struct Rounded {
    pub(crate) network: Box<dyn Rater>,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
}

impl Rater for Rounded {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        self.network.preprocessor()
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        with_products_of(self.kind, self.device, || self.network.rate(inputs)).to_kind(Kind::Float)
    }
}

/// The error of a checkpoint that has none of the layouts of the network `name`.
pub(super) fn another<N: Architecture>(name: RaterName, checkpoint: &Checkpoint) -> RaterError {
    RaterError::Another {
        path: checkpoint.path().to_owned(),
        asked: name,
        landmarks: N::LAYOUTS.iter().map(|layout| format!("`{}`", layout.landmark)).collect(),
        looks_like: looks_like(checkpoint),
    }
}

/// The layouts of the published checkpoints of the network `name`.
const fn layouts(name: RaterName) -> &'static [Layout] {
    match name {
        RaterName::HyperIqa => HyperIqa::LAYOUTS,
        RaterName::Dbcnn => Dbcnn::LAYOUTS,
        RaterName::StairIqa => StairIqa::LAYOUTS,
        RaterName::Baid => Saan::LAYOUTS,
        RaterName::Musiq => Musiq::LAYOUTS,
        RaterName::ClipIqa | RaterName::ClipIqaPlus => ClipIqa::LAYOUTS,
        RaterName::ResNet50 => ResNet50::LAYOUTS,
        RaterName::EfficientNetLite0 => EfficientNet::LAYOUTS,
        // Its folder is known by its settings.
        RaterName::QAlign => &[],
    }
}

/// Tensors of networks that people have at hand and that are no rating networks here.
const OTHERS: &[(&str, &str)] = &[
    (musiq::NPZ_LANDMARK, "musiq"),
    ("tablock1.0.c_q.weight", "MANIQA"),
    ("classifier.6.weight", "a VGG for ImageNet"),
    ("layer4.2.conv3.weight", "a plain ResNet-50"),
    ("visual_abstractor.query_embeds", "mPLUG-Owl2 or Q-Align"),
    ("patch_embed.proj.weight", "a vision transformer"),
];

/// What network the checkpoint seems to hold.
fn looks_like(checkpoint: &Checkpoint) -> Option<&'static str> {
    let raters = RaterName::ALL.iter().copied();
    let rater = raters.filter(|name| Stored::find(checkpoint, layouts(*name)).is_some()).map(RaterName::as_str).next();
    let others = OTHERS.iter().filter(|(landmark, _)| checkpoint.prefix_of(landmark).is_some());
    rater.or_else(|| others.map(|(_, name)| *name).next())
}
