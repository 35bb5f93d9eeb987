//! The settings of a training of a rating network, in addition to the trainer's hyperparameters.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::features::DeviceChoice;
use crate::train::{Labels, Schedule, TrainSettings, TrainSettingsError};
use agiqa_nets::raters::{RaterName, RaterStart};
use agiqa_store::path_text;

/// Side of HyperIQA's input, pixels.
const HYPERIQA_SIDE_PX: u32 = 224;

/// Least side of a crop, pixels. The networks halve a picture five times.
const LEAST_CROP_PX: u32 = 32;

/// How batch norms learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNorms {
    /// They use the statistics of the batch and move the stored ones, as PyTorch does in training mode. Batch norms of
    /// frozen parts use the stored ones.
    #[default]
    Train,
    /// They use the stored statistics, which stay. Their weights and biases are trained.
    Eval,
    /// They stay as they are.
    Frozen,
}

/// Settings of a training of a rating network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaterSettings {
    /// The network.
    pub network: RaterName,
    /// First weights: a checkpoint of the network or of its only trunk, or a folder with the files of its trunks. `None`:
    /// the folder `imagenet` in the weights folder.
    #[serde(default, with = "path_text::optional", skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Variant of the network, as for `agiqa score`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The device to train on.
    #[serde(default)]
    pub device: DeviceChoice,
    /// How batch norms learn.
    #[serde(default)]
    pub batch_norm: BatchNorms,
    /// Side of the random square that is cut out of a training image, pixels. A smaller image is enlarged first. `None`:
    /// the network's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<u32>,
    /// Whether a training image is flipped, left and right, with probability 0.5. `None`: the network's protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<bool>,
    /// Images that pass through the network at once. The gradients of a batch's parts are summed. `None`: the whole
    /// batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// Steps over which the learning rate rises to the schedule's value.
    #[serde(default)]
    pub warmup_steps: u32,
    /// Memory for images, MiB. If they do not fit, they are kept in a file in the temporary folder.
    #[serde(default = "image_memory_mib")]
    pub image_memory_mib: u32,
    /// Minutes between two saved states within an epoch. The end of an epoch saves one, too, if the last
    /// is a minute old.
    #[serde(default = "checkpoint_minutes")]
    pub checkpoint_minutes: f64,
}

fn image_memory_mib() -> u32 {
    2048
}

fn checkpoint_minutes() -> f64 {
    10.0
}

/// What a network is trained with, unless the settings say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Side of a training crop, pixels; `None` for whole images.
    pub crop: Option<u32>,
    /// Whether training images are flipped.
    pub flip: bool,
    /// Course of the learning rate; `None` for the trainer's.
    pub schedule: Option<Schedule>,
}

impl Protocol {
    /// The protocol of `network`: crops and flips of its authors' code, or of pyiqa's.
    pub fn of(network: RaterName) -> Self {
        let (crop, flip, schedule) = match network {
            RaterName::HyperIqa => (Some(HYPERIQA_SIDE_PX), true, None),
            RaterName::Dbcnn => (Some(448), true, None),
            // ResNet-50 learns as StairIQA does, so that the two differ in the network alone.
            RaterName::StairIqa | RaterName::ResNet50 => (Some(320), false, Some(Schedule::Steps)),
            RaterName::EfficientNetLite0 => (Some(320), true, None),
            RaterName::Baid | RaterName::Musiq => (None, true, None),
            // These are not trained here.
            RaterName::ClipIqa | RaterName::ClipIqaPlus | RaterName::QAlign => (None, true, None),
        };
        Self { crop, flip, schedule }
    }
}

impl RaterSettings {
    /// The settings of `network`, by its protocol.
    pub fn of(network: RaterName) -> Self {
        Self {
            network,
            weights: None,
            variant: None,
            device: DeviceChoice::Auto,
            batch_norm: BatchNorms::Train,
            crop: None,
            flip: None,
            micro_batch: None,
            warmup_steps: 0,
            image_memory_mib: image_memory_mib(),
            checkpoint_minutes: checkpoint_minutes(),
        }
    }

    /// Side of a training crop, pixels; `None` for whole images.
    pub(super) fn crop_px(&self) -> Option<u32> {
        self.crop.or(Protocol::of(self.network).crop)
    }

    /// Whether training images are flipped.
    pub(super) fn flips(&self) -> bool {
        self.flip.unwrap_or(Protocol::of(self.network).flip)
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainSettingsError> {
        if !RaterStart::NETWORKS.contains(&self.network) {
            let expected = "`hyperiqa`, `dbcnn`, `stairiqa`, `baid`, `musiq`, `resnet50` or `efficientnet-lite0`: others are \
                            not trained here";
            return Err(TrainSettingsError::new("rater.network", self.network, expected));
        }
        let wrong_crop = |crop: u32, expected| Err(TrainSettingsError::new("rater.crop", crop, expected));
        match (self.network, self.crop) {
            (RaterName::HyperIqa, Some(crop)) if crop != HYPERIQA_SIDE_PX => {
                return wrong_crop(crop, "224: its hyper network is made for this side");
            }
            (RaterName::Baid, Some(crop)) => {
                return wrong_crop(crop, "none: `baid` sees the whole image at 224 × 224 pixels");
            }
            (_, Some(crop)) if crop < LEAST_CROP_PX => return wrong_crop(crop, "32 or more"),
            _ => {}
        }
        if self.micro_batch == Some(0) {
            return Err(TrainSettingsError::new("rater.micro_batch", 0, "1 or more"));
        }
        if !(0.0..=f64::MAX).contains(&self.checkpoint_minutes) {
            return Err(TrainSettingsError::new("rater.checkpoint_minutes", self.checkpoint_minutes, "0 or more"));
        }
        Ok(())
    }

    /// Checks the trainer's `settings` for this network.
    ///
    /// # Errors
    /// Labels are standardised, but ratings lie between 0 and 1.
    pub(super) fn check_labels(&self, settings: &TrainSettings) -> Result<(), TrainSettingsError> {
        match (self.network.is_bounded(), settings.labels) {
            (true, Labels::Standardised) => {
                let expected = "`raw`: the network's ratings lie between 0 and 1, and labels are scaled to them";
                Err(TrainSettingsError::new("labels", "standardised", expected))
            }
            _ => Ok(()),
        }
    }

    /// The settings that decide a run's numbers, in their JSON form.
    pub(super) fn deciding(&self, settings: &TrainSettings) -> Value {
        let mut json = serde_json::to_value(settings).expect("settings are plain data");
        json["rater"] = serde_json::json!({
            "network": self.network,
            "variant": self.variant,
            "batch_norm": self.batch_norm,
            "crop": self.crop_px(),
            "flip": self.flips(),
            "micro_batch": self.micro_batch,
            "warmup_steps": self.warmup_steps,
        });
        if let Some(fields) = json.as_object_mut() {
            // This setting only decides when a state is saved.
            fields.remove("checkpoint_epochs");
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_that_the_network_cannot_read_is_refused() {
        let error = |network, crop| {
            let settings = RaterSettings { crop: Some(crop), ..RaterSettings::of(network) };
            settings.check().map_err(|error| error.to_string())
        };
        assert!(error(RaterName::HyperIqa, 256).expect_err("not 224").contains("expected 224"));
        assert!(error(RaterName::Baid, 224).expect_err("no crops").contains("expected none"));
        assert!(error(RaterName::Dbcnn, 16).expect_err("too small").contains("32 or more"));
        assert_eq!(error(RaterName::Dbcnn, 64), Ok(()));
        assert!(RaterSettings::of(RaterName::ClipIqa).check().is_err());
    }
}
