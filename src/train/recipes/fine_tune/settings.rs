//! The settings of a fine-tuning, in addition to the trainer's hyperparameters and the head's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::features::{DeviceChoice, Dtype};
use crate::train::recipes::{HeadKind, HeadSettings, Start};
use crate::train::{Augment, Labels, Optimiser, TrainSettings, TrainSettingsError};
use agiqa_store::path_text;

/// Settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FineTuneSettings {
    /// Folder of the weights that the features were computed with; `None` for the fetched weights.
    #[serde(with = "path_text::optional", skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Side of training images, pixels: one of the features' sides. `None`: their first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<u32>,
    /// Sides at which the trained network scores; a score is the mean over them. Empty: the side of training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub score_sides: Vec<u32>,
    /// Whether validation and scores take the mean over an image's and its mirror image's features. `None`: as the features
    /// do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<bool>,
    /// Type of matrix products. Weights, sums, norms and the optimiser are always f32. `None`: `bf16` on a GPU, else `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// The device to train on.
    pub device: DeviceChoice,
    /// Random changes of a training image each time it is used.
    pub augment: Augment,
    /// Smallest side of the random square that is cut out of a batch's images and resized, as a share of theirs; 1 for none.
    pub crop: f64,
    /// Number of frozen blocks of the transformer, counted from the first. If it is above 0, the patch embedding is frozen
    /// too.
    pub freeze_blocks: u32,
    /// Factor on the learning rate of the last transformer block that is read.
    pub backbone_rate: f64,
    /// Factor from each transformer block to the block before it.
    pub layer_decay: f64,
    /// Share of the images for which a step leaves the last block out. It falls linearly to 0 at the first block.
    pub stochastic_depth: f64,
    /// Weight of 1 − PLCC of the batch, added to the squared error.
    pub plcc_loss: f64,
    /// Share of the steps over which the learning rate rises.
    pub warmup: f64,
    /// Largest norm of the gradient.
    pub gradient_norm: f64,
    /// Images that pass through the network at once. The gradients of a batch's parts are summed, and PLCC is that of each
    /// part. `None`: the whole batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// Memory for resized images, MiB. If they do not fit, they are kept in a file in the temporary folder.
    pub image_memory_mib: u32,
    /// Minutes between two saved states within an epoch. The end of an epoch saves one, too, if the last
    /// is a minute old.
    pub checkpoint_minutes: f64,
}

impl Default for FineTuneSettings {
    fn default() -> Self {
        Self {
            weights: None,
            side: None,
            score_sides: Vec::new(),
            mirror: None,
            dtype: None,
            device: DeviceChoice::Auto,
            augment: Augment::Flip,
            crop: 0.92,
            freeze_blocks: 0,
            backbone_rate: 0.15,
            layer_decay: 0.75,
            stochastic_depth: 0.1,
            plcc_loss: 0.5,
            warmup: 0.1,
            gradient_norm: 5.0,
            micro_batch: None,
            image_memory_mib: 2048,
            checkpoint_minutes: 10.0,
        }
    }
}

impl FineTuneSettings {
    /// The trainer's and the head's settings of a fine-tuning that names none.
    pub fn defaults() -> (TrainSettings, HeadSettings) {
        let settings = TrainSettings {
            optimiser: Optimiser::Adamw,
            learning_rate: 2e-4,
            weight_decay: 0.05,
            batch_size: 32,
            epochs: 6,
            labels: Labels::Standardised,
            weight_average: 0.99,
            ..TrainSettings::default()
        };
        let head = HeadSettings {
            width: 256,
            input_dropout: 0.3,
            dropout: 0.2,
            start: Start::Ridge,
            ridge: false,
            ..HeadSettings::default()
        };
        (settings, head)
    }

    /// The type of matrix products on the wanted device.
    pub(super) fn dtype(&self) -> Dtype {
        let of_device = || if self.device.wanted() == tch::Device::Cpu { Dtype::F32 } else { Dtype::Bf16 };
        self.dtype.unwrap_or_else(of_device)
    }

    /// Checks ranges, including the ranges of `head`.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self, head: &HeadSettings) -> Result<(), TrainSettingsError> {
        head.check()?;
        if head.head != HeadKind::Gated {
            let expected = "`gated`: a fine-tuning trains no other head";
            return Err(TrainSettingsError::new("head", head.head.as_str(), expected));
        }
        let factors = [
            ("fine_tune.backbone_rate", self.backbone_rate),
            ("fine_tune.layer_decay", self.layer_decay),
            ("fine_tune.gradient_norm", self.gradient_norm),
        ];
        if let Some((name, factor)) = factors.into_iter().find(|(_, factor)| !(*factor > 0.0 && factor.is_finite())) {
            return Err(TrainSettingsError::new(name, factor, "a number above 0"));
        }
        let amounts =
            [("fine_tune.plcc_loss", self.plcc_loss), ("fine_tune.checkpoint_minutes", self.checkpoint_minutes)];
        if let Some((name, amount)) = amounts.into_iter().find(|(_, amount)| !(0.0..=f64::MAX).contains(amount)) {
            return Err(TrainSettingsError::new(name, amount, "0 or more"));
        }
        let shares = [("fine_tune.stochastic_depth", self.stochastic_depth), ("fine_tune.warmup", self.warmup)];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..1.0).contains(share)) {
            return Err(TrainSettingsError::new(name, share, "0 or more, below 1"));
        }
        if !(self.crop > 0.0 && self.crop <= 1.0) {
            return Err(TrainSettingsError::new("fine_tune.crop", self.crop, "a share above 0, up to 1"));
        }
        if self.dtype == Some(Dtype::F16) {
            return Err(TrainSettingsError::new("fine_tune.dtype", "f16", "`f32` or `bf16`: f16's gradients vanish"));
        }
        if self.micro_batch == Some(0) {
            return Err(TrainSettingsError::new("fine_tune.micro_batch", 0, "1 or more"));
        }
        Ok(())
    }

    /// Share of the images for which a step leaves block `block` of `n_blocks` out.
    pub(super) fn depth(&self, block: usize, n_blocks: usize) -> f64 {
        if block < self.freeze_blocks as usize {
            return 0.0;
        }
        self.stochastic_depth * block as f64 / n_blocks.saturating_sub(1).max(1) as f64
    }
}
