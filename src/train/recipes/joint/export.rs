//! The files that a joint run leaves: the network under official names, and its fusion module as a head over columns.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::JointLesson;
use crate::features::FeaturePair;
use crate::train::trainer::{Exported, LocalFolder, RecipeError};
use agiqa_nets::fusion::{FusionHead, PARAMETER_NAMES};
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::trained_head::{LabelScale, Standardisation, TrainedHead, tensors_to_bytes};
use agiqa_store::store::Store;
use agiqa_store::tables::models;

impl JointLesson<'_> {
    /// Writes network and head. The record names the features of the network by a fingerprint of its weights.
    pub(super) fn export_network(&self, tensors: NamedTensors, store: &Store) -> Result<Exported, RecipeError> {
        let run = &self.data.run;
        let head = self.head(&tensors);
        let config = serde_json::to_vec_pretty(&self.config.maniqa).expect("sizes are plain data");
        store.put(&models::maniqa_config_path(run), config)?;
        store.put(&models::maniqa_weights_path(run), self.official(tensors, &head))?;
        store.put(&models::head_path(run), head.to_bytes())?;
        let folder = LocalFolder::new(store, &models::maniqa_prefix(run))?;
        let quality = FeaturePair::quality_of(&self.recipe.extractor(folder.path().to_owned()))?;
        let inputs = models::fusion_inputs(&self.recipe.semantic, &quality);
        Ok(Exported { inputs, ..Exported::default() })
    }

    /// The fusion module as a head over cached columns.
    fn head(&self, tensors: &NamedTensors) -> TrainedHead {
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].shallow_clone());
        let [f_a, f_b] = [0, 1].map(|i: usize| self.columns.standardisations[i].on(Device::Cpu));
        let f_1 = Standardisation::identity(self.config.fusion.quality_dim);
        TrainedHead {
            head: FusionHead::new(self.config.fusion, parameters),
            inputs: [f_a, f_b, f_1],
            labels: self.labels,
            linear: None,
        }
    }

    /// Bytes of the whole network under official names. It reads raw semantic vectors and gives scores on the MOS
    /// scale: the standardisation of inputs and labels is folded into the weights.
    fn official(&self, mut tensors: NamedTensors, head: &TrainedHead) -> Vec<u8> {
        let _no_grad = tch::no_grad_guard();
        let double = |name: &str| tensors[name].to_kind(Kind::Double);
        let mut folded = Vec::new();
        for (input, layer) in head.inputs.iter().zip(["fc4096_784_a2.0", "fc4096_784_b2.0"]) {
            let weight = double(&format!("{layer}.weight")) * &input.scale; // (width, d)
            let bias = double(&format!("{layer}.bias")) - weight.matmul(&input.mean.to_kind(Kind::Double));
            folded.push((format!("{layer}.weight"), weight));
            folded.push((format!("{layer}.bias"), bias));
        }
        let LabelScale { scale, offset } = self.labels;
        folded.push(("output_fc.weight".to_owned(), double("output_fc.weight") * scale));
        folded.push(("output_fc.bias".to_owned(), double("output_fc.bias") * scale + offset));
        tensors.extend(folded.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Float))));
        let mut named: Vec<(String, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        tensors_to_bytes(&named, HashMap::new())
    }
}
