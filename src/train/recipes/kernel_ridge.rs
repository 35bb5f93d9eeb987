//! Kernel ridge regression over cached columns, fitted in closed form ([`agiqa_nets::kernel_ridge`]).
//!
//! A run leaves `head.safetensors` with the support images' ids and dual coefficients. Only a subset of support images
//! depends on the seed, so a training has one run per split.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use super::fusion::HeadSettings;
use crate::features::catching;
use crate::train::head_inputs;
use crate::train::trainer::{Exported, Finished, Pace, Recipe, RecipeError, RunData, TrainError, judged};
use crate::train::{TrainSettings, TrainSettingsError};
use agiqa_nets::kernel_ridge::{Fitted, Header, Kernel, KernelRidge, Scorer};
use agiqa_store::console::Progress;
use agiqa_store::identity::Fingerprint;
use agiqa_store::stage::StageContext;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, KernelRidgeRecord, StrengthRecord};
use agiqa_store::tables::splits::Part;

/// Version of the training code. It must be raised if equal inputs give new numbers.
const VERSION: u32 = 1;

/// Settings of kernel ridge regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelSettings {
    /// γ of the kernel exp(-γ d) / γ, where d is the mean squared difference of standardised columns; 0 for the linear
    /// kernel.
    pub gamma: f64,
    /// Candidates of the number on the kernel's diagonal. The leave-one-out error of the training part chooses.
    pub strengths: Vec<f64>,
    /// Largest number of training images that are all support images. Two matrices of this side are in memory.
    pub max_rows: u32,
    /// Number of support images, drawn by the seed, if there are more training images.
    pub n_support: u32,
}

impl Default for KernelSettings {
    fn default() -> Self {
        Self { gamma: 0.3, strengths: vec![0.1, 0.2, 0.4, 0.8, 1.6], max_rows: 20_000, n_support: 4000 }
    }
}

impl KernelSettings {
    /// Checks ranges.
    ///
    /// # Errors
    /// Fails for the first value outside its range.
    pub fn check(&self) -> Result<(), TrainSettingsError> {
        if !(self.gamma >= 0.0 && self.gamma.is_finite()) {
            return Err(TrainSettingsError::new("kernel.gamma", self.gamma, "0 (linear) or more"));
        }
        if self.strengths.is_empty() || !self.strengths.iter().all(|strength| *strength > 0.0 && strength.is_finite()) {
            let found = format!("{:?}", self.strengths);
            return Err(TrainSettingsError::new("kernel.strengths", found, "one number above 0, or several"));
        }
        let counts = [("kernel.max_rows", self.max_rows), ("kernel.n_support", self.n_support)];
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((name, count)) => Err(TrainSettingsError::new(name, count, "1 or more")),
            None => Ok(()),
        }
    }
}

/// Fits kernel ridge regression to cached columns.
#[derive(Clone, Debug)]
pub struct KernelRidgeRecipe {
    /// The feature set with f_a and f_b.
    pub semantic: FeatureSet,
    /// The feature set with f_1.
    pub quality: FeatureSet,
    /// The columns to read, and the kernel.
    pub settings: HeadSettings,
}

/// A regression failed.
#[derive(Debug, thiserror::Error)]
#[error("run `{run}`: kernel ridge regression failed")]
struct KernelRidgeError {
    run: PartitionName,
    source: TchError,
}

impl Recipe for KernelRidgeRecipe {
    const RUN_KIND: &'static str = "kernel ridge run";
    const NAME: &'static str = models::KERNEL_RIDGE;

    fn check(&self) -> Result<(), RecipeError> {
        self.settings.check()?;
        self.columns()?;
        Ok(())
    }

    fn fingerprint(&self, dataset: &PartitionName, settings: &TrainSettings) -> Result<Fingerprint, RecipeError> {
        let sets = [&self.semantic, &self.quality];
        Ok(super::fingerprint_over("kernel ridge training", VERSION, dataset, sets, &self.deciding(settings)))
    }

    fn deciding(&self, settings: &TrainSettings) -> serde_json::Value {
        serde_json::json!({
            "inputs": self.settings.sorted_inputs(),
            "kernel": self.settings.kernel,
            "allow_missing": settings.allow_missing,
        })
    }

    fn columns(&self) -> Result<Vec<FeatureSet>, RecipeError> {
        Ok(head_inputs::all_columns(&self.semantic, &self.quality, &self.settings.sorted_inputs())?)
    }

    fn advice(&self, dataset: &PartitionName) -> String {
        head_inputs::advice(dataset, &self.semantic, &self.quality)
    }

    fn pace(&self) -> Pace {
        // One run takes all threads and the memory of its kernel. There is nothing to save on the way.
        Pace::InTurn { checkpoint_minutes: f64::INFINITY }
    }

    fn n_epochs(&self, _settings: &TrainSettings) -> u32 {
        1
    }

    fn learn(
        &self,
        data: &RunData<'_>,
        context: &StageContext,
        progress: &Progress,
    ) -> Result<Option<Finished>, TrainError> {
        let fitted = catching(|| self.fit(data, context)).and_then(std::convert::identity);
        let wrong = |source| -> RecipeError { KernelRidgeError { run: data.run.clone(), source }.into() };
        let Some(Regression { fitted, file, validation }) = fitted.map_err(wrong)? else { return Ok(None) };
        progress.add(data.train_mos.len() as u64);
        for candidate in fitted.candidates.iter().filter(|candidate| candidate.jitter > 0.0) {
            context.console.warn(format!(
                "run {}: rounding leaves the kernel not positive definite at strength {:e}, so {:e} is added to its diagonal",
                data.run, candidate.strength, candidate.jitter
            ));
        }
        context.store.put(&models::head_path(&data.run), file.to_bytes())?;
        let strength = |candidate: &agiqa_nets::kernel_ridge::Candidate| StrengthRecord {
            strength: candidate.strength,
            jitter: candidate.jitter,
            error: candidate.error,
        };
        let best = fitted.candidates[fitted.best];
        let scores: Vec<f64> = validation.iter().map(|(score, _)| *score).collect();
        let kernel_ridge = KernelRidgeRecord {
            gamma: self.settings.kernel.gamma,
            strength: best.strength,
            strengths: fitted.candidates.iter().map(strength).collect(),
            n_support: file.header.support.len(),
            validation_coverage: coverage(&validation, &data.validation_mos),
        };
        let inputs = models::fusion_inputs(&self.semantic, &self.quality);
        let exported = Exported { inputs, ridge: None, kernel_ridge: Some(kernel_ridge) };
        let (epoch, _) = judged(1, best.error.powi(2), &scores, &data.validation_mos);
        Ok(Some(Finished { exported, chosen_by: "leave-one-out", best_epoch: 1, epochs: vec![epoch] }))
    }
}

/// A regression with its file, and scores and deviations of the validation part.
struct Regression {
    fitted: Fitted,
    file: KernelRidge,
    validation: Vec<(f64, Option<f64>)>,
}

impl KernelRidgeRecipe {
    fn fit(&self, data: &RunData<'_>, context: &StageContext) -> Result<Option<Regression>, TchError> {
        let KernelSettings { gamma, strengths, max_rows, n_support } = &self.settings.kernel;
        let of_rows = |rows: &[i64]| {
            let rows = Tensor::from_slice(rows);
            data.columns.iter().map(|column| column.f_index_select(0, &rows)).collect::<Result<Vec<_>, _>>()
        };
        let train = data.part(Part::Train);
        let columns = of_rows(train)?;
        let standardisations = || Kernel::standardise(&columns);
        let goes_on = || !context.interrupt.is_raised();
        if !goes_on() {
            return Ok(None);
        }
        let (support, kernel, fitted) = if train.len() <= *max_rows as usize {
            let kernel = Kernel::new(*gamma, columns.iter().map(Tensor::shallow_clone).collect(), standardisations());
            let fitted = kernel.fit(&data.train_mos, strengths, context.n_threads, &goes_on)?;
            (train.to_vec(), kernel, fitted)
        } else {
            let mut positions = data.draws.order(0, train.len());
            positions.truncate(*n_support as usize);
            positions.sort_unstable();
            let support: Vec<i64> = positions.iter().map(|position| train[*position as usize]).collect();
            let kernel = Kernel::new(*gamma, of_rows(&support)?, standardisations());
            let (labels, n_threads) = (&data.train_mos, context.n_threads);
            let fitted = kernel.fit_by_subset(&columns, &positions, labels, strengths, n_threads, &goes_on)?;
            (support, kernel, fitted)
        };
        let Some(fitted) = fitted else { return Ok(None) };
        let names = self.columns().map_err(|error| TchError::Kind(error.to_string()))?;
        let names = names.iter().flat_map(|set| set.columns.iter().map(|column| column.name.clone())).collect();
        let header = Header {
            gamma: *gamma,
            lambda: fitted.lambda(),
            mean: fitted.mean,
            sigma: fitted.sigma,
            columns: names,
            support: support.iter().map(|row| data.image_ids[*row as usize].to_string()).collect(),
        };
        let scorer = Scorer::new(kernel, fitted.dual.shallow_clone(), header.mean, header.lambda, header.sigma)?;
        let validation = scorer.score(&of_rows(data.part(Part::Validation))?, context.n_threads)?;
        let file = KernelRidge { header, dual: fitted.dual.shallow_clone(), standardisations: standardisations() };
        Ok(Some(Regression { fitted, file, validation }))
    }
}

/// Share of images whose MOS is within 1.96 standard deviations of the score; `None` without deviations.
fn coverage(scores: &[(f64, Option<f64>)], mos: &[f64]) -> Option<f64> {
    let is_within = |((score, std), mos): (&(f64, Option<f64>), &f64)| Some((score - mos).abs() <= 1.96 * (*std)?);
    let within: Vec<bool> = scores.iter().zip(mos).map(is_within).collect::<Option<Vec<_>>>()?;
    Some(within.iter().filter(|is_within| **is_within).count() as f64 / within.len().max(1) as f64)
}
