//! The end of a run: the kept network is written, applied to the dataset's images, and its head becomes one over columns.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use super::{Finished, JointError, Outcome, Position, Trainer};
use crate::engine::{EngineError, ImageSource};
use crate::features::{ExtractorName, FeaturePair, FeatureSettings, FeatureStage};
use crate::train::recipes::joint::learner::Learner;
use crate::train::run::is_constant;
use agiqa_nets::fusion::{FusionConfig, FusionHead, PARAMETER_NAMES};
use agiqa_nets::layers::NamedTensors;
use agiqa_nets::trained_head::{LabelScale, Standardisation, TrainedHead, tensors_to_bytes};
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models;

impl Trainer<'_> {
    /// Writes the kept network, its features, its head and the log.
    pub(super) fn finish(&self, learner: &Learner, position: &Position) -> Result<Outcome, JointError> {
        let (job, store) = (self.job, &self.context.store);
        let last;
        let (trained, best_epoch, chosen_by) = match &position.best {
            Some(best) => {
                let constant = is_constant(&job.validation_mos);
                (&best.trained, best.epoch, if constant { "validation MSE" } else { "validation SRCC + PLCC" })
            }
            None => {
                last = learner.evaluated();
                (&last, self.settings.epochs, "last")
            }
        };
        let tensors: NamedTensors =
            learner.with(trained).into_iter().map(|(name, xs)| (name, xs.to_device(Device::Cpu))).collect();
        let head = self.head(&tensors);
        let config = serde_json::to_vec_pretty(&job.config.maniqa).expect("sizes are plain data");
        store.put(&models::maniqa_config_path(&job.run), config)?;
        store.put(&models::maniqa_weights_path(&job.run), self.official(tensors, &head))?;
        let Some(quality) = self.features()? else { return Ok(Outcome::Interrupted) };
        store.put(&models::head_path(&job.run), head.to_bytes())?;
        let (chosen_by, epochs) = (chosen_by.to_owned(), position.epochs.clone());
        Ok(Outcome::Finished(Box::new(Finished { quality, chosen_by, best_epoch, epochs })))
    }

    /// The fusion module as a head over cached columns.
    fn head(&self, tensors: &NamedTensors) -> TrainedHead {
        let config: FusionConfig = self.job.config.fusion;
        let parameters = PARAMETER_NAMES.map(|name| tensors[name].shallow_clone());
        let [f_a, f_b] = &self.inputs;
        TrainedHead {
            head: FusionHead::new(config, parameters),
            inputs: [f_a.share(), f_b.share(), Standardisation::identity(config.quality_dim)],
            labels: self.labels,
        }
    }

    /// Bytes of the whole network under official names, for raw semantic vectors and scores on the MOS scale: what
    /// standardises inputs and labels is folded into the weights beside it.
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
        tensors_to_bytes(&named, std::collections::HashMap::new())
    }

    /// Applies the kept network to the dataset's images; none where it was interrupted.
    fn features(&self) -> Result<Option<FeatureSet>, JointError> {
        let (job, store) = (self.job, &self.context.store);
        let failed = |source| JointError::Features { run: job.run.clone(), source: Box::new(source) };
        // The extractor reads a folder, which a bucket is not.
        let temporary;
        let folder: PathBuf = match store.folder() {
            Some(folder) => folder.join(models::maniqa_prefix(&job.run)),
            None => {
                temporary = tempfile::tempdir().map_err(JointError::Temporary)?;
                for path in [models::maniqa_config_path(&job.run), models::maniqa_weights_path(&job.run)] {
                    let name = path.rsplit('/').next().unwrap_or(&path);
                    std::fs::write(temporary.path().join(name), store.get(&path)?).map_err(JointError::Temporary)?;
                }
                temporary.path().to_owned()
            }
        };
        let settings = FeatureSettings {
            extractor: ExtractorName::Maniqa,
            weights: Some(folder),
            dtype: Some(self.joint.dtype),
            device: self.joint.device,
            ..FeatureSettings::default()
        };
        let set = FeaturePair::quality_of(&settings).map_err(|error| failed(EngineError::Guest(error.into())))?;
        let stage = FeatureStage::new(settings, ImageSource::Dataset(job.dataset.clone()));
        let report = stage.compute(self.context).map_err(failed)?;
        if report.rows.n_rejected > 0 {
            // Not one of those that were trained or validated on, so the run stands.
            self.context.console.warn(format!("run {}: {}", job.run, report.summary));
        }
        Ok((!report.interrupted).then_some(set))
    }
}
