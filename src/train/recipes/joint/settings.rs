//! The settings of a joint training, in addition to the trainer's hyperparameters and the head's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::features::{DeviceChoice, Dtype};
use crate::train::recipes::{HeadInput, HeadKind, HeadSettings, Start, rate_in_transformer};
use crate::train::{Augment, TrainSettingsError};
use agiqa_nets::fusion::PARAMETER_NAMES;
use agiqa_store::path_text;

/// On `dinov2-s14`, the side must be a multiple of this number of pixels.
const SIDE_STEP: u32 = 56;

/// Settings of a joint training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JointSettings {
    /// Folder with `config.json` and weights, as for `agiqa features --extractor maniqa`. It holds a whole MANIQA,
    /// possibly as part of an MA-AGIQA, or only its transformer; the seed then draws the rest. `None`: ViT-S/14 with
    /// the weights `dinov2-s14`. The fusion module is always drawn, because the module of an MA-AGIQA reads other
    /// inputs: f_a and f_b without standardisation.
    #[serde(with = "path_text::optional", skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Side of the input on `dinov2-s14`, pixels; 392 gives the paper's 28 × 28 tokens. A folder states its own side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<u32>,
    /// Type of matrix products. Weights, sums, norms and the optimiser are always f32.
    pub dtype: Dtype,
    /// The device to train on.
    pub device: DeviceChoice,
    /// Random changes of a training image each time it is used.
    pub augment: Augment,
    /// Whether the whole transformer is frozen.
    pub freeze_backbone: bool,
    /// Number of frozen blocks of the transformer, counted from the first. If it is above 0, the patch embedding is
    /// frozen too.
    pub freeze_blocks: u32,
    /// Factor on the learning rate of the last transformer block that is read.
    pub backbone_rate: f64,
    /// Factor from each transformer block to the block before it.
    pub layer_decay: f64,
    /// Factor on the learning rate of MANIQA's parts above the transformer.
    pub quality_rate: f64,
    /// Factor on the learning rate of the fusion module.
    pub fusion_rate: f64,
    /// Weight of the loss of MANIQA's own rating, added to the fusion's loss. This loss is the squared error of the
    /// rating, on the scale of training. Its target is the label minus the smallest label of the training part, because
    /// ratings cannot be negative. The trained network's `rating` in `features` is therefore on that scale. With 0, as
    /// in the paper, MANIQA learns from the fusion's loss only.
    pub rating_loss: f64,
    /// Steps over which the learning rate rises to the schedule's value.
    pub warmup_steps: u32,
    /// Images that pass through the network at once. The gradients of a batch's parts are summed. `None`: the whole
    /// batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<u32>,
    /// Memory for resized images, MiB. If they do not fit, they are kept in a file in the temporary folder.
    pub image_memory_mib: u32,
    /// Minutes between two saved states within an epoch. The end of an epoch saves one, too, if the last
    /// is a minute old.
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
    /// Checks ranges, including the ranges of `head`, which is trained with MANIQA.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self, head: &HeadSettings) -> Result<(), TrainSettingsError> {
        head.check()?;
        if head.head != HeadKind::Gated {
            return Err(TrainSettingsError::new(
                "head",
                head.head.as_str(),
                "`gated`: a joint training trains no other head",
            ));
        }
        if head.start != Start::Random {
            return Err(TrainSettingsError::new(
                "start",
                "ridge",
                "`random`: the columns of a joint training are not known before",
            ));
        }
        if !head.inputs.contains(&HeadInput::Quality) {
            return Err(head.wrong_inputs("`f_1` among them: a joint training trains MANIQA, which makes it"));
        }
        let rates = [
            ("joint.backbone_rate", self.backbone_rate),
            ("joint.layer_decay", self.layer_decay),
            ("joint.quality_rate", self.quality_rate),
            ("joint.fusion_rate", self.fusion_rate),
        ];
        if let Some((name, rate)) = rates.into_iter().find(|(_, rate)| !(*rate > 0.0 && rate.is_finite())) {
            let expected = "a number above 0 (to train nothing of the transformer: `freeze_backbone`)";
            return Err(TrainSettingsError::new(name, rate, expected));
        }
        let amounts = [("joint.rating_loss", self.rating_loss), ("joint.checkpoint_minutes", self.checkpoint_minutes)];
        if let Some((name, amount)) = amounts.into_iter().find(|(_, amount)| !(0.0..=f64::MAX).contains(amount)) {
            return Err(TrainSettingsError::new(name, amount, "0 or more"));
        }
        if self.dtype == Dtype::F16 {
            let expected = "`f32` or `bf16`: gradients are too small for f16, which has no smaller numbers than 6e-8";
            return Err(TrainSettingsError::new("joint.dtype", self.dtype, expected));
        }
        if self.micro_batch == Some(0) {
            return Err(TrainSettingsError::new("joint.micro_batch", 0, "1 or more"));
        }
        match self.side {
            Some(side) if side == 0 || !side.is_multiple_of(SIDE_STEP) => {
                let expected = "a multiple of 56: patches of 14 pixels, attention windows of 4 patches";
                Err(TrainSettingsError::new("joint.side", side, expected))
            }
            Some(side) if self.weights.is_some() => Err(TrainSettingsError::new(
                "joint.side",
                side,
                "none together with `weights`, whose `config.json` gives it",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// The settings that decide a run's numbers, in their JSON form.
    pub(in crate::train::recipes) fn deciding(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("settings are plain data");
        if let Some(fields) = json.as_object_mut() {
            // These settings do not decide the numbers. The fingerprint covers the content of the weights, not their
            // path.
            for key in ["weights", "device", "image_memory_mib", "checkpoint_minutes"] {
                fields.remove(key);
            }
            // Older versions had no rating loss. A run without it must keep its name, so the key is removed.
            if self.rating_loss == 0.0 {
                fields.remove("rating_loss");
            }
        }
        json
    }

    /// Factor on the learning rate of the parameter `name`, with a transformer of which `n_blocks` blocks are read; 0
    /// for a parameter that is not trained.
    pub(super) fn rate(&self, name: &str, n_blocks: usize) -> f64 {
        let Some(name) = name.strip_prefix("vit.") else {
            return if PARAMETER_NAMES.contains(&name) { self.fusion_rate } else { self.quality_rate };
        };
        let n_frozen = if self.freeze_backbone { n_blocks } else { self.freeze_blocks as usize };
        rate_in_transformer(name, n_blocks, n_frozen, self.backbone_rate, self.layer_decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_f16_are_refused() {
        let settings = |dtype| JointSettings { dtype, ..JointSettings::default() };
        let check = |dtype| settings(dtype).check(&HeadSettings::default());
        let error = check(Dtype::F16).expect_err("its gradients vanish");
        assert!(error.to_string().starts_with("`joint.dtype` is f16; expected `f32` or `bf16`"), "{error}");
        assert!(check(Dtype::Bf16).is_ok());
    }

    #[test]
    fn rates_fall_from_the_last_block_read_and_frozen_ones_are_zero() {
        let all = JointSettings {
            backbone_rate: 0.5,
            layer_decay: 0.5,
            quality_rate: 3.0,
            fusion_rate: 2.0,
            ..JointSettings::default()
        };
        let frozen = JointSettings { freeze_blocks: 2, ..all.clone() };
        assert_eq!(frozen.rate("conv1.weight", 10), 3.0);
        assert_eq!(frozen.rate("output_fc.bias", 10), 2.0);
        assert_eq!(frozen.rate("vit.blocks.9.mlp.fc1.weight", 10), 0.5);
        assert_eq!(frozen.rate("vit.blocks.7.mlp.fc1.weight", 10), 0.125);
        assert_eq!(frozen.rate("vit.blocks.1.mlp.fc1.weight", 10), 0.0);
        assert_eq!(frozen.rate("vit.pos_embed", 10), 0.0);
        assert_eq!(all.rate("vit.pos_embed", 10), 0.5 * 0.5_f64.powi(10));
    }
}
