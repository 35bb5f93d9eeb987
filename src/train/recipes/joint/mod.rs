//! Joint training: MANIQA learns from the images together with the fusion module, as in the paper; the semantic vectors
//! come from cached columns.
//!
//! Inputs: a dataset's `images` and `splits`, a semantic feature set, the image files, and the weights that MANIQA starts
//! from. Output per run: what a head's training leaves ([`agiqa_store::tables::models`], [`agiqa_store::tables::train_log`]), the trained
//! network under `models/run=<run>/maniqa/` in the form that `agiqa extract --extractor maniqa` reads, and its `f_1` of
//! the dataset's images as a quality feature set. So a finished run is a head over cached columns like any other:
//! `predict` and `evaluate` know no difference, and other datasets are scored after an `extract` with its weights.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::features::{DeviceChoice, Dtype};
use crate::train::SettingsError;

mod learner;

mod run;

mod stage;

mod start;

mod state;

pub use crate::train::augment::Augment;
pub use crate::train::initial::initial;
pub use crate::train::pictures::PicturesError;
pub use learner::{Learner, LearnerState, MicroBatch, OptimiserSettings, Rates};
pub use run::JointError;
pub use stage::JointStage;
pub use start::StartError;

/// What the side on `dinov2-s14` is a multiple of, pixels.
const SIDE_STEP: u32 = 56;

/// What a joint training takes beside the hyperparameters that it shares with a head's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JointSettings {
    /// Folder with `config.json` and weights, as for `agiqa extract --extractor maniqa`: a whole MANIQA, also that of an
    /// MA-AGIQA, or its transformer alone, the rest drawn by the seed. None: ViT-S/14 with the weights `dinov2-s14`. The
    /// fusion module is drawn in any case: an MA-AGIQA's is for other inputs, f_a and f_b as they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Side of the input on `dinov2-s14`, pixels; 392 gives the paper's 28 × 28 tokens. A folder says its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<u32>,
    /// What matrix products are computed in; weights, sums, norms and the optimiser are f32 in any case.
    pub dtype: Dtype,
    /// Where it is trained.
    pub device: DeviceChoice,
    /// What is done to a training image each time it is seen.
    pub augment: Augment,
    /// Whether the whole transformer stays as it is.
    pub freeze_backbone: bool,
    /// Blocks of the transformer, from the first, that stay as they are; with them the embedding of patches.
    pub freeze_blocks: u32,
    /// Factor on the learning rate of the transformer's last block that is read.
    pub backbone_rate: f64,
    /// Factor from each block of the transformer to the one before it.
    pub layer_decay: f64,
    /// Factor on the learning rate of MANIQA's parts above the transformer.
    pub quality_rate: f64,
    /// Factor on the learning rate of the fusion module.
    pub fusion_rate: f64,
    /// Weight of the loss of MANIQA's own rating beside the fusion's: its squared error, on the scale trained on, from the
    /// label less the least label of the training part, because ratings are 0 or more. So what `extract` gives as the
    /// trained network's `rating` is on that scale. 0, as in the paper: MANIQA learns from the fusion's loss alone.
    pub rating_loss: f64,
    /// Steps over which the learning rate rises to what the schedule says.
    pub warmup_steps: u32,
    /// Images that go through the network at once; the gradients of a batch's parts are summed. None: the whole batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// Memory for resized images, MiB. Where they do not fit, they wait in a file of the temporary folder.
    pub image_memory_mib: u32,
    /// Minutes between two saved states within an epoch; the end of an epoch always saves one.
    pub checkpoint_minutes: f64,
}

impl Default for JointSettings {
    fn default() -> Self {
        Self {
            weights: None,
            side: None,
            dtype: Dtype::F32,
            device: DeviceChoice::Auto,
            augment: Augment::Horizontal,
            freeze_backbone: false,
            freeze_blocks: 0,
            backbone_rate: 1.0,
            layer_decay: 1.0,
            quality_rate: 1.0,
            fusion_rate: 1.0,
            rating_loss: 0.0,
            warmup_steps: 0,
            micro_batch: None,
            image_memory_mib: 2048,
            checkpoint_minutes: 10.0,
        }
    }
}

impl JointSettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let error = |name, found: &dyn ToString, expected| Err(SettingsError::new(name, found.to_string(), expected));
        let rates = [
            ("joint.backbone_rate", self.backbone_rate),
            ("joint.layer_decay", self.layer_decay),
            ("joint.quality_rate", self.quality_rate),
            ("joint.fusion_rate", self.fusion_rate),
        ];
        for (name, rate) in rates {
            if !(rate > 0.0 && rate.is_finite()) {
                return error(name, &rate, "a number above 0 (to train nothing of the transformer: `freeze_backbone`)");
            }
        }
        if !(0.0..=f64::MAX).contains(&self.rating_loss) {
            return error("joint.rating_loss", &self.rating_loss, "0 or more");
        }
        if self.micro_batch == Some(0) {
            return error("joint.micro_batch", &0, "1 or more");
        }
        if !(0.0..=f64::MAX).contains(&self.checkpoint_minutes) {
            return error("joint.checkpoint_minutes", &self.checkpoint_minutes, "0 or more");
        }
        if let Some(side) = self.side
            && (side == 0 || !side.is_multiple_of(SIDE_STEP))
        {
            return error(
                "joint.side",
                &side,
                "a multiple of 56: patches of 14 pixels, attention windows of 4 patches",
            );
        }
        if self.weights.is_some() && self.side.is_some() {
            let side = self.side.unwrap_or_default();
            return error("joint.side", &side, "none beside `weights`: their `config.json` says it");
        }
        Ok(())
    }

    /// Checks what depends on the transformer, of which `n_blocks` blocks are read.
    ///
    /// # Errors
    /// The first value outside its range.
    pub(super) fn check_for(&self, n_blocks: usize) -> Result<(), SettingsError> {
        if self.freeze_blocks as usize > n_blocks {
            let found = format!("{} of the {n_blocks} blocks that are read", self.freeze_blocks);
            return Err(SettingsError::new("joint.freeze_blocks", found, "as many as there are, or fewer"));
        }
        Ok(())
    }

    /// How fast each parameter learns.
    pub(super) fn rates(&self, n_blocks: usize) -> Rates {
        Rates {
            frozen_blocks: if self.freeze_backbone { n_blocks } else { self.freeze_blocks as usize },
            backbone: self.backbone_rate,
            layer_decay: self.layer_decay,
            quality: self.quality_rate,
            fusion: self.fusion_rate,
        }
    }
}
