//! The stage after a training: it applies the trained networks to the images of the dataset.

use std::path::{Path, PathBuf};

use crate::engine::ImageSource;
use crate::train::runs::{add, n_runs_in_words};
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::RunRecord;

/// How the network of a run is applied to images.
pub struct Application {
    /// The results of the network, for the title of the stage, e.g. `features by MANIQA`.
    pub title: &'static str,
    /// The store's folder with the network of a run.
    pub prefix_of: fn(&PartitionName) -> String,
    /// The stage that computes rows for a source's images with the network in a folder.
    pub stage: Box<Apply>,
}

/// Makes the stage that applies the network of a run, in a folder, to a source's images.
type Apply = dyn Fn(&RunRecord, &Path, ImageSource) -> Result<Box<dyn Stage>, StageError>;

/// A folder of a bucket cannot be copied to this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a temporary folder for the trained network")]
struct CopyError(#[source] std::io::Error);

/// A folder of the store as a local folder. Extractors read local folders, which a bucket does not have.
pub struct LocalFolder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl LocalFolder {
    /// The folder `prefix` of `store`. If the store is a bucket, the folder is copied.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if the disk has too little space for the copy.
    pub fn new(store: &Store, prefix: &str) -> Result<Self, StageError> {
        if let Some(folder) = store.folder() {
            return Ok(Self { path: folder.join(prefix), _temporary: None });
        }
        let temporary = tempfile::tempdir().map_err(CopyError)?;
        for object in store.list(prefix)? {
            let name = object.path.rsplit('/').next().unwrap_or(&object.path);
            let bytes = store.get(&object.path)?;
            std::fs::write(temporary.path().join(name), bytes).map_err(CopyError)?;
        }
        Ok(Self { path: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// Path of the local folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The trained network of a run cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("run `{run}`: the trained network cannot be applied")]
struct ApplyError {
    run: PartitionName,
    source: StageError,
}

/// Computes the rows of the trained networks of some runs.
pub struct NextStage {
    /// Name of the training.
    pub name: PartitionName,
    /// The datasets whose images the networks are applied to.
    pub datasets: Vec<PartitionName>,
    /// The runs.
    pub runs: Vec<PartitionName>,
    /// How the networks are applied.
    pub application: Application,
}

impl NextStage {
    /// Calls `apply` with the stage of each run's network and dataset, one after the other, while it returns true.
    fn for_each_run(
        &self,
        store: &Store,
        mut apply: impl FnMut(&PartitionName, &dyn Stage) -> Result<bool, StageError>,
    ) -> Result<(), StageError> {
        for run in &self.runs {
            // An unfinished run has no network yet.
            let record = RunRecord::read(store, run)?;
            let folder = LocalFolder::new(store, &(self.application.prefix_of)(run))?;
            for dataset in &self.datasets {
                let source = ImageSource::Dataset(dataset.clone());
                let stage = (self.application.stage)(&record, folder.path(), source)?;
                if !apply(run, stage.as_ref())? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Stage for NextStage {
    fn name(&self) -> String {
        let Self { name, datasets, runs, application } = self;
        let datasets = datasets.iter().map(PartitionName::as_str).collect::<Vec<_>>().join(", ");
        format!("{} of {name} on {datasets} ({})", application.title, n_runs_in_words(runs.len()))
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        for run in &self.runs {
            if RunRecord::read_if_finished(store, run)?.is_none() {
                return Ok(Freshness::Stale { reason: format!("run `{run}` is not trained yet") });
            }
        }
        let (mut rows, mut stale) = (RowCounts::default(), None);
        self.for_each_run(store, |run, stage| {
            match stage.freshness(store)? {
                Freshness::Current { rows: counts, .. } => add(&mut rows, counts),
                Freshness::Stale { reason } => stale = Some(format!("run `{run}`: {reason}")),
            }
            Ok(stale.is_none())
        })?;
        let n_runs = self.runs.len();
        Ok(match stale {
            Some(reason) => Freshness::Stale { reason },
            None => {
                Freshness::Current { reason: format!("all {} rows of {n_runs} runs are present", rows.n_out), rows }
            }
        })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        let mut report = StageReport::default();
        self.for_each_run(&context.store, |run, stage| {
            let computed = stage.run(context).map_err(|source| ApplyError { run: run.clone(), source })?;
            add(&mut report.rows, computed.rows);
            if !report.summary.is_empty() {
                report.summary.push_str("; ");
            }
            report.summary.push_str(&computed.summary);
            report.interrupted = computed.interrupted;
            Ok(!computed.interrupted)
        })?;
        Ok(report)
    }
}
