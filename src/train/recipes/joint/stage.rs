//! The joint half of the `train` stage: plans runs, reads images once, trains one run after the other.

use std::collections::{BTreeSet, HashMap, HashSet};

use tch::{Device, Kind, Tensor};

use super::JointSettings;
use super::run::{self, Finished, Job, JointError, Outcome};
use super::start::{self, Start};
use crate::features::maniqa::ManiqaPreprocessor;
use crate::train::TrainSettings;
use crate::train::data::{DataError, PartRows, TrainingData};
use crate::train::head_inputs::{self, HeadInputs};
use crate::train::pictures::{Location, Pictures, Read};
use crate::train::plan::{Known, RunPlan, RunSeed, add, row_counts, said_n_runs};
use crate::train::stage::{TrainError, said_of};
use agiqa_nets::ma_agiqa::MaAgiqaConfig;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::tables::features::FeatureSet;
use agiqa_store::tables::models::{self, RunRecord};
use agiqa_store::tables::splits::Part;
use agiqa_store::tables::{PartitionName, images};

/// Version of the joint training: raised where equal inputs give other numbers than before.
const JOINT_VERSION: u32 = 1;

/// Trains MANIQA and the fusion module together, in a list of runs that differ in split and seed only.
#[derive(Clone, Debug)]
pub struct JointStage {
    /// What the names of the runs begin with.
    pub name: PartitionName,
    /// The dataset.
    pub dataset: PartitionName,
    /// Which runs.
    pub runs: Vec<RunSeed>,
    /// Where f_a and f_b come from.
    pub semantic: FeatureSet,
    /// Hyperparameters; their `joint` is there.
    pub settings: TrainSettings,
}

impl JointStage {
    fn joint(&self) -> JointSettings {
        self.settings.joint.clone().unwrap_or_default()
    }

    /// Fingerprint of what the stage is told, as opposed to what the store holds.
    fn settings_fingerprint(&self) -> Result<Fingerprint, TrainError> {
        let joint = self.joint();
        let config = self.config()?;
        let weights = start::content_hash(&joint, &config).map_err(JointError::from)?;
        let mut builder = Fingerprint::builder("joint training");
        if let Some(products) = joint.dtype.other_products(joint.device) {
            builder.json("products", &products);
        }
        Ok(builder
            .json("version", &JOINT_VERSION)
            .json("dataset", &self.dataset)
            .json("semantic", &self.semantic.fingerprint)
            .json("maniqa", &config.maniqa)
            .json("weights", &weights)
            .json("settings", &self.settings.deciding())
            .finish())
    }

    fn config(&self) -> Result<MaAgiqaConfig, TrainError> {
        let joint = self.joint();
        let maniqa = start::maniqa_config(&joint).map_err(JointError::from)?;
        joint.check_for(maniqa.vit_config().n_blocks)?;
        let [semantic_dim, coherence_dim] = head_inputs::semantic_dims(&self.semantic)?;
        let [semantic_dim, coherence_dim, _] =
            self.settings.read_dims([semantic_dim, coherence_dim, maniqa.n_tokens()]);
        let width = i64::from(self.settings.width);
        Ok(MaAgiqaConfig::new(maniqa, semantic_dim, coherence_dim, width, self.settings.gate))
    }

    /// Its runs.
    ///
    /// # Errors
    /// Weights that cannot be started from: what they are is part of the runs' names.
    pub fn plan(&self) -> Result<RunPlan<'_>, TrainError> {
        Ok(RunPlan::new("joint run", &self.name, &self.dataset, &self.runs, self.settings_fingerprint()?))
    }

    fn advice(&self) -> String {
        let Self { dataset, semantic, .. } = self;
        let (extractor, fingerprint) = (&semantic.extractor, semantic.fingerprint.short());
        format!(
            "run `agiqa embed --dataset {dataset}` (semantic features `{extractor}@{fingerprint}`), or ingest again where \
             MOS are missing"
        )
    }

    fn known(&self, store: &Store) -> Result<Known, DataError> {
        Known::read(store, &self.dataset, &[&self.semantic])
    }
}

impl Stage for JointStage {
    fn name(&self) -> String {
        format!("train {} with MANIQA on {} ({})", self.name, self.dataset, said_n_runs(&self.runs))
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        self.settings.check()?;
        Ok(self.plan()?.freshness(store, || self.known(store))?)
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.train(context)?)
    }
}

/// What a saved state belongs to: the run, and the images left out of it because their files could not be read, which no
/// table tells. With others, order, scales and steps are others.
fn state_fingerprint(run: Fingerprint, unreadable: &HashSet<ImageId>) -> Fingerprint {
    let without: BTreeSet<String> = unreadable.iter().map(ImageId::to_string).collect();
    Fingerprint::builder("joint state").json("run", &run).json("without", &without).finish()
}

/// A run that is to be trained.
struct Planned {
    seed: RunSeed,
    fingerprint: Fingerprint,
    fold: i64,
    parts: PartRows,
}

impl JointStage {
    fn train(&self, context: &StageContext) -> Result<StageReport, TrainError> {
        self.settings.check()?;
        let (store, joint) = (&context.store, self.joint());
        let device = joint.device.device().map_err(JointError::from)?;
        joint.dtype.check_on(device).map_err(JointError::from)?;
        let config = self.config()?;
        let plan = self.plan()?;
        let splits = plan.read_splits(store)?;
        let mut report = StageReport::default();
        let todo = plan.pending(store, &splits, &self.known(store)?, &mut report.rows)?;
        let Start { tensors: known, unused } = start::known(&joint, &config).map_err(JointError::from)?;
        if !unused.is_empty() {
            context.console.info(format!(
                "{} tensors of the weights are not read, those of a fusion module among them, which is drawn by the seed: {}",
                unused.len(),
                unused.join(", ")
            ));
        }
        let mut unreadable = HashSet::new();
        let (data, planned, read, picture_of) = loop {
            let (data, locations) = self.data(store, &unreadable)?;
            let mut planned = Vec::with_capacity(todo.len());
            for (run, fingerprint) in &todo {
                let rows = &splits[&run.split];
                let parts = data.part_rows(&run.split, rows, self.settings.allow_missing, &self.advice())?;
                let fold = rows.first().map_or(0, |row| row.fold);
                planned.push(Planned { seed: run.clone(), fingerprint: *fingerprint, fold, parts });
            }
            // What no run is trained or validated on needs no picture.
            let wanted: BTreeSet<i64> = planned.iter().flat_map(|planned| planned.parts.rows[..2].concat()).collect();
            let mut picture_of = vec![None; data.features.image_ids.len()];
            wanted.iter().enumerate().for_each(|(picture, row)| picture_of[*row as usize] = Some(picture));
            let pictured: Vec<Location> = wanted.iter().map(|row| locations[*row as usize].clone()).collect();
            match self.pictures(&pictured, &joint, &config, context)? {
                Read::Failed(failures) => {
                    if !self.settings.allow_missing {
                        let (n, n_images) = (failures.len(), pictured.len());
                        let first = failures.into_iter().next().map_or_else(String::new, |(_, why)| why.message);
                        return Err(JointError::Images { n, n_images, first }.into());
                    }
                    for (picture, failure) in failures {
                        context.console.warn(format!("left out: {}", failure.message));
                        unreadable.insert(pictured[picture].image_id);
                    }
                }
                read => break (data, planned, read, picture_of),
            }
        };
        // Of what the head does not read, nothing.
        let dims = config.fusion.dims();
        let [f_a, f_b] = [0, 1].map(|i| data.features.inputs[i].narrow(1, 0, dims[i]));
        let mut n_trained = 0;
        let mut n_left = 0;
        let n_images: usize = planned.iter().map(|planned| planned.parts.counts[0].n_used).sum();
        let total = n_images as u64 * u64::from(self.settings.epochs);
        let progress = context.console.progress(format!("train {}", self.name), "images", total);
        for planned in planned {
            let mut counts = row_counts(&planned.parts.counts, false);
            let finished = match &read {
                Read::Done(pictures) if n_left == 0 => {
                    let job = Job {
                        run: plan.run_name(&planned.seed)?,
                        dataset: &self.dataset,
                        seed: planned.seed.seed,
                        fingerprint: planned.fingerprint,
                        state_fingerprint: state_fingerprint(planned.fingerprint, &unreadable),
                        config: &config,
                        known: &known,
                        device,
                        pictures,
                        picture_of: &picture_of,
                        image_ids: &data.features.image_ids,
                        f_a: &f_a,
                        f_b: &f_b,
                        train_mos: data.mos_of(&planned.parts.rows[Part::Train as usize]),
                        validation_mos: data.mos_of(&planned.parts.rows[Part::Validation as usize]),
                        parts: planned.parts.clone(),
                    };
                    match run::train(&job, &self.settings, &joint, context, &progress)? {
                        Outcome::Finished(finished) => {
                            self.record(&job, &planned, *finished, plan.group_name(&planned.seed)?, context)?;
                            true
                        }
                        Outcome::Interrupted => false,
                    }
                }
                _ => false,
            };
            if finished {
                n_trained += 1;
            } else {
                n_left += 1;
                (counts.n_left, counts.n_out) = (counts.n_out, 0);
            }
            add(&mut report.rows, counts);
        }
        progress.finish();
        report.interrupted = n_left > 0;
        report.summary = format!("{n_trained} runs trained");
        if n_left > 0 {
            report.summary.push_str(&format!(", {n_left} stopped; what is trained is saved and goes on from there"));
        }
        if report.rows.n_rejected > 0 {
            report.summary.push_str(&format!(", {} rows of their splits left out", report.rows.n_rejected));
        }
        Ok(report)
    }

    /// Semantic columns and MOS of the dataset's images but `without`, and where their files are, row by row.
    fn data(&self, store: &Store, without: &HashSet<ImageId>) -> Result<(TrainingData, Vec<Location>), TrainError> {
        let rows = images::read(store, &self.dataset).map_err(DataError::from)?.rows;
        if rows.is_empty() {
            return Err(DataError::NoImages(self.dataset.clone()).into());
        }
        let mut seen = HashSet::new();
        let wanted: Vec<ImageId> =
            rows.iter().map(|row| row.image_id).filter(|id| !without.contains(id) && seen.insert(*id)).collect();
        let path_of: HashMap<ImageId, &str> = rows.iter().map(|row| (row.image_id, row.path.as_str())).collect();
        let mos = rows.iter().filter_map(|row| Some((row.image_id, row.mos?))).collect();
        let [dim_a, dim_b] = head_inputs::semantic_dims(&self.semantic)?;
        let found = head_inputs::semantic_inputs(&self.semantic)?.read(store, &wanted).map_err(DataError::from)?;
        let (mut image_ids, mut taken) = (Vec::new(), Vec::new());
        for (id, row) in wanted.iter().zip(&found.rows) {
            if let Some(row) = row {
                image_ids.push(*id);
                taken.push(*row as i64);
            }
        }
        let taken = Tensor::from_slice(&taken);
        let column = |values: &[f32], dim: i64| Tensor::from_slice(values).view([-1, dim]).index_select(0, &taken);
        let n = image_ids.len() as i64;
        let none = Tensor::zeros([n, 0], (Kind::Float, Device::Cpu));
        let inputs = match found.matrices.as_slice() {
            [f_a, f_b, ..] if n > 0 => [column(f_a, dim_a), column(f_b, dim_b), none],
            _ => [dim_a, dim_b, 0].map(|dim| Tensor::zeros([0, dim], (Kind::Float, Device::Cpu))),
        };
        let location = |id: &ImageId| Location { image_id: *id, path: path_of[id].to_owned() };
        let locations = image_ids.iter().map(location).collect();
        let features = HeadInputs { image_ids, inputs };
        Ok((TrainingData::new(self.dataset.clone(), features, mos), locations))
    }

    fn pictures(
        &self,
        locations: &[Location],
        joint: &JointSettings,
        config: &MaAgiqaConfig,
        context: &StageContext,
    ) -> Result<Read, TrainError> {
        let side_px = u32::try_from(config.maniqa.vit.img_size).expect("a checked side");
        let preprocessor = ManiqaPreprocessor::of(&config.maniqa);
        let n_memory_bytes = u64::from(joint.image_memory_mib) << 20;
        let what = format!("images at {side_px} px");
        let progress = context.console.progress(what, "images", locations.len() as u64);
        let (n_threads, interrupt) = (context.n_threads, &context.interrupt);
        let each = || progress.add(1);
        let read = Pictures::read(locations, side_px, preprocessor, n_memory_bytes, n_threads, interrupt, each)
            .map_err(JointError::from)?;
        progress.finish();
        if let Read::Done(pictures) = &read
            && !pictures.in_memory()
        {
            context.console.info(format!(
                "resized images do not fit `image_memory_mib = {}` and wait in a file of the temporary folder",
                joint.image_memory_mib
            ));
        }
        Ok(read)
    }

    fn record(
        &self,
        job: &Job<'_>,
        planned: &Planned,
        finished: Finished,
        group: PartitionName,
        context: &StageContext,
    ) -> Result<(), TrainError> {
        let store = &context.store;
        let Finished { quality, chosen_by, best_epoch, epochs } = finished;
        let record = RunRecord {
            run: job.run.clone(),
            group,
            dataset: self.dataset.clone(),
            split: planned.seed.split.clone(),
            fold: planned.fold,
            seed: planned.seed.seed,
            fingerprint: planned.fingerprint,
            semantic: self.semantic.clone(),
            quality,
            settings: self.settings.deciding(),
            parts: planned.parts.counts,
            chosen_by,
            best_epoch,
            epochs,
            ridge: None,
            agiqa_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        context.console.info(said_of(&record));
        record.write(store)?;
        store.delete(&models::state_path(&job.run))?;
        Ok(())
    }
}
