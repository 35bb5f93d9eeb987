//! Data that the runs of a call share: the list of runs to train, cached columns, and pictures.

use std::collections::{BTreeSet, HashSet};

use super::{Recipe, RunData, TrainError, TrainStage, Training as _};
use crate::train::data::{PartRows, TrainingData};
use crate::train::pictures::{Location, Pictures, Read};
use crate::train::random::Draws;
use crate::train::runs::RunSeed;
use agiqa_store::identity::{Fingerprint, ImageId};
use agiqa_store::stage::{StageContext, StageReport};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::splits::Part;

/// Version of saved states. It must be raised if a training cannot resume from an older state.
const STATE_VERSION: u32 = 1;

/// A run to train, with the contents of its record.
pub(super) struct Planned {
    pub(super) run: PartitionName,
    pub(super) seed: RunSeed,
    pub(super) fingerprint: Fingerprint,
    pub(super) fold: i64,
    pub(super) parts: PartRows,
}

/// Data that the runs of a call share.
pub(super) struct Shared {
    pub(super) data: TrainingData,
    /// The pictures, for a recipe that reads them.
    pub(super) pictures: Option<Box<Pictures>>,
    /// Images left out because their files could not be read.
    pub(super) unreadable: HashSet<ImageId>,
    pub(super) planned: Vec<Planned>,
}

impl<R: Recipe> TrainStage<R> {
    /// The runs to train and their data, and whether reading the data was interrupted.
    pub(super) fn shared(
        &self,
        context: &StageContext,
        report: &mut StageReport,
    ) -> Result<(Shared, bool), TrainError> {
        let store = &context.store;
        let plan = self.plan()?;
        let splits = plan.read_splits(store)?;
        let pending = plan.pending(store, &splits, &self.stored(store)?, &mut report.rows)?;
        let sets = self.recipe.columns()?;
        let mut unreadable = HashSet::new();
        loop {
            let data = TrainingData::read(store, &self.dataset, &sets, &unreadable)?;
            let mut planned = Vec::with_capacity(pending.len());
            for (seed, fingerprint) in &pending {
                let (rows, advice) = (&splits[&seed.split], self.recipe.advice(&self.dataset));
                let parts = data.part_rows(&seed.split, rows, self.settings.allow_missing, &advice)?;
                let fold = rows.first().map_or(0, |row| row.fold);
                let run = plan.run_name(seed)?;
                planned.push(Planned { run, seed: seed.clone(), fingerprint: *fingerprint, fold, parts });
            }
            // Only images in a training or validation part need a picture.
            let rows: BTreeSet<i64> = planned.iter().flat_map(|planned| planned.parts.rows[..2].concat()).collect();
            let locations: Vec<Location> = rows.into_iter().map(|row| data.location(row)).collect();
            let (pictures, is_interrupted) = match self.pictures(&locations, &data, context)? {
                None => (None, false),
                Some(Read::Done(pictures)) => (Some(pictures), false),
                Some(Read::Interrupted) => (None, true),
                Some(Read::Failed(failures)) if self.settings.allow_missing => {
                    for (position, failure) in failures {
                        context.console.warn(format!("left out: {}", failure.message));
                        unreadable.insert(locations[position].image_id);
                    }
                    continue;
                }
                Some(Read::Failed(failures)) => {
                    let (n, n_images) = (failures.len(), locations.len());
                    let first = failures.into_iter().next().map_or_else(String::new, |(_, failure)| failure.message);
                    return Err(TrainError::Images { n, n_images, first });
                }
            };
            return Ok((Shared { data, pictures, unreadable, planned }, is_interrupted));
        }
    }

    /// Reads the pictures at `locations`; `None` if the recipe reads no pictures.
    fn pictures(
        &self,
        locations: &[Location],
        data: &TrainingData,
        context: &StageContext,
    ) -> Result<Option<Read>, TrainError> {
        let Some(settings) = self.recipe.pictures()? else { return Ok(None) };
        let memory_mib = settings.memory_mib;
        let title = "read images";
        let progress = context.console.progress(title, "images", locations.len() as u64);
        let (n_rows, each) = (data.columns.image_ids.len(), || progress.add(1));
        let read = Pictures::read(locations, n_rows, settings, context.n_threads, &context.interrupt, each)?;
        progress.finish();
        if let Read::Done(pictures) = &read
            && !pictures.in_memory()
        {
            context.console.info(format!(
                "resized images do not fit `image_memory_mib = {memory_mib}` and wait in a file of the temporary folder"
            ));
        }
        Ok(Some(read))
    }

    /// The data of one run, with its own handles on the columns.
    pub(super) fn run_data<'a>(&'a self, shared: &'a Shared, planned: &Planned, context: &StageContext) -> RunData<'a> {
        let Shared { data, pictures, unreadable, .. } = shared;
        // The run's fingerprint does not cover unreadable images. Leaving them out changes order, scales and steps.
        let without: BTreeSet<String> = unreadable.iter().map(ImageId::to_string).collect();
        let state_fingerprint = Fingerprint::builder("training state")
            .json("version", &STATE_VERSION)
            .json("run", &planned.fingerprint)
            .json("without", &without)
            .finish();
        RunData {
            run: planned.run.clone(),
            fingerprint: planned.fingerprint,
            state_fingerprint,
            settings: &self.settings,
            draws: Draws::new(planned.seed.seed),
            image_ids: &data.columns.image_ids,
            columns: data.columns.tensors.iter().map(tch::Tensor::shallow_clone).collect(),
            pictures: pictures.as_deref(),
            rows: planned.parts.rows.clone(),
            train_mos: data.mos_of(&planned.parts.rows[Part::Train as usize]),
            validation_mos: data.mos_of(&planned.parts.rows[Part::Validation as usize]),
            n_threads: context.n_threads,
            console: context.console,
        }
    }
}
