//! `ingest`: turns a MOS table and a folder of images into the `images` table of one dataset.
//!
//! One row of `images` is one row of the dataset's table whose image was opened, identified by content and decoded to
//! its end. `generator`, `prompt`, `mos_std` and `mos_align` may be null; columns of the dataset that have no meaning
//! here are kept behind the fixed ones, and `table_row` says which row of the table it was (from 1, after the header).
//! Every other row is a reject with its number, its name and one of these kinds:
//!
//! | kind | the row or its image |
//! |---|---|
//! | `ragged-row` | has more or fewer cells than the header, is not a JSON object, or has a key more than once |
//! | `not-utf8` | is not text in the table's encoding |
//! | `empty-name` | names no image |
//! | `escapes-folder` | has a name that leads out of the image folder |
//! | `bad-mos`, `mos-out-of-scale` | has a MOS that is not a number, or is outside the declared scale |
//! | `bad-number` | has a `mos_std` or `mos_align` that is not a number |
//! | `duplicate-name` | names the same file as an earlier row, which is kept |
//! | `missing`, `unreadable` | names a file that does not exist, or that cannot be read |
//! | `empty`, `not-an-image`, `truncated`, `damaged`, `unsupported` | has unusable content, see [`agiqa_images`] |
//! | `damaged-scan` | is a JPEG whose decoder warns of lost data |
//! | `too-large` | has more pixels than the limit |
//! | `duplicate-image` | has the same bytes as the image of an earlier row, which is kept: identity is content |
//!
//! A dataset is replaced as a whole, so an interrupted ingest leaves the earlier dataset unchanged.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use agiqa_images::{DecodeLimits, ImageError, ImageInfo};
use agiqa_intake::TableError;
use agiqa_store::identity::ImageId;
use agiqa_store::panics;
use agiqa_store::path_text::text_of;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::derived::Derived;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::rejects::{self, RejectRow};

mod adapter;
mod nearby;
mod record;
mod rows;
mod settings;

use record::{FileStamp, StampDigest};
use rows::{Candidate, Plan};

pub use adapter::Adapter;
pub use record::IngestRecord;
pub use settings::{ColumnNames, IngestSettings, IngestSettingsError, NameRule};

/// Version of the rules that turn a table into rows. It is raised if the same inputs give other rows.
const VERSION: u32 = 2;

/// Name of the stage in `rejects`.
const STAGE: &str = "ingest";

/// Number of rejects that are printed. The store has all of them.
const N_SHOWN: usize = 5;

/// An error that stops the ingest of a whole dataset.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum IngestError {
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] IngestSettingsError),
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The table lacks a column that is needed.
    #[error("MOS table: the column for `{key}`")]
    Column { key: &'static str, source: TableError },
    /// The image folder cannot be opened.
    #[error("cannot open image folder `{}`", path.display())]
    ImageFolder { path: PathBuf, source: std::io::Error },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part could not be written or read.
    #[error(transparent)]
    Part(#[from] PartError),
}

/// The condition for ingesting a dataset again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// Its table, an image file or a setting has changed.
    IfChanged,
    /// None: it is always ingested again.
    Always,
}

/// The stage that ingests one dataset.
pub struct IngestStage {
    /// The dataset to ingest.
    pub settings: IngestSettings,
    /// The condition for ingesting it again.
    pub rerun: Rerun,
    /// The plan of the last look. A table from a pipe can be read only once.
    plan: Mutex<Option<Plan>>,
}

impl Stage for IngestStage {
    fn name(&self) -> String {
        format!("{STAGE} {}", self.settings.dataset)
    }

    fn freshness(&self, store: &Store) -> Result<Freshness, StageError> {
        Ok(self.look(store)?)
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.ingest(context)?)
    }
}

/// One image file after it was read and decoded.
struct Probed {
    stamp: FileStamp,
    path: PathBuf,
    image: Result<(ImageId, u64, ImageInfo), ImageError>,
}

impl IngestStage {
    /// The stage for a dataset.
    pub fn new(settings: IngestSettings, rerun: Rerun) -> Self {
        Self { settings, rerun, plan: Mutex::new(None) }
    }

    /// The plan of an earlier look or of the table as it is now, and the image folder. A wrong table is named first.
    fn plan_and_folder(&self) -> Result<(Plan, Option<PathBuf>), IngestError> {
        let folder = self.image_folder();
        let plan = match self.plan.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(plan) => plan,
            None => panics::of_file(&self.settings.table, || {
                Plan::of(&self.settings, folder.as_ref().ok().and_then(Option::as_deref))
            })?,
        };
        Ok((plan, folder?))
    }

    /// The folder of the images; `None` if they are not opened.
    fn image_folder(&self) -> Result<Option<PathBuf>, IngestError> {
        let path = &self.settings.images;
        if self.settings.no_images || path.as_os_str().is_empty() {
            return Ok(None);
        }
        let error = |source| IngestError::ImageFolder { path: path.clone(), source };
        let folder = path.canonicalize().map_err(error)?;
        // Fails if the path is not a folder or must not be searched. Otherwise every image would seem to be missing.
        std::fs::read_dir(&folder).map_err(error)?;
        Ok(Some(folder))
    }

    fn look(&self, store: &Store) -> Result<Freshness, IngestError> {
        let stale = |reason: &str| Ok(Freshness::Stale { reason: reason.to_owned() });
        if self.rerun == Rerun::Always {
            return stale("asked for explicitly");
        }
        let (plan, folder) = self.plan_and_folder()?;
        let stamps = StampDigest::of_plan(&plan, folder.as_deref());
        let now = IngestRecord::new(&self.settings, &plan.table_hash, &stamps)?;
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        let dataset = &self.settings.dataset;
        let Some(found) = IngestRecord::read(store, dataset)? else { return stale("not ingested yet") };
        if found.settings != now.settings {
            return stale("the settings changed");
        }
        if found.table != now.table {
            return stale("the MOS table changed");
        }
        if found.files != now.files {
            return stale("image files changed");
        }
        match images::state(store, dataset, now.fingerprint())? {
            Derived::Current => {}
            Derived::Unreadable => return stale("the `images` table cannot be read"),
            Derived::Absent | Derived::Outdated => {
                return stale("the `images` table is not the one that was written last");
            }
        }
        if found.rows.n_rejected > 0 && !store.exists(&rejects_path(&self.settings))? {
            return stale("the list of rejects is gone");
        }
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let rows = RowCounts { n_cached: found.rows.n_out, ..found.rows };
        let reason = format!("nothing changed: {} images, {} rejected", rows.n_out, rows.n_rejected);
        Ok(Freshness::Current { reason, rows })
    }

    fn ingest(&self, context: &StageContext) -> Result<StageReport, IngestError> {
        let (plan, folder) = self.plan_and_folder()?;
        for note in &plan.notes {
            context.console.warn(note.clone());
        }
        let n_in = plan.n_rows() as u64;
        let mut stamps = StampDigest::default();
        let probed = match &folder {
            None => None,
            Some(folder) => {
                let Some(probed) = self.probe_all(&plan, folder, context) else {
                    let rows = RowCounts { n_in, n_left: n_in, ..RowCounts::default() };
                    let summary = "interrupted; the dataset is unchanged".to_owned();
                    return Ok(StageReport { rows, summary, interrupted: true });
                };
                for (candidate, probed) in plan.candidates.iter().zip(&probed) {
                    stamps.add(candidate, probed.stamp);
                }
                Some(probed)
            }
        };
        let mut record = IngestRecord::new(&self.settings, &plan.table_hash, &stamps)?;
        let (table, rejected) = match (probed, folder) {
            (Some(probed), Some(folder)) => {
                let (table, mut rejected) = sort_out(plan, probed);
                if let Some(hint) = nearby::explain(&folder, &mut rejected) {
                    context.console.warn(hint);
                }
                (table, rejected)
            }
            _ => without_images(plan, &self.settings),
        };
        let (n_out, n_rejected) = (table.rows.len() as u64, rejected.len() as u64);
        record.rows = RowCounts { n_in, n_out, n_cached: 0, n_rejected, n_left: 0 };
        let dataset = &self.settings.dataset;
        // The record is written last. Until it agrees with the fingerprint in the part, the dataset is ingested again.
        rejects::replace(&context.store, STAGE, dataset, &rejected)?;
        images::replace(&context.store, dataset, &table, Some(record.fingerprint()))?;
        record.write(&context.store, dataset)?;
        self.show(context, &rejected, n_out);
        let summary = match n_rejected {
            0 => format!("{n_out} images"),
            _ => format!("{n_out} images, {n_rejected} rejected ({})", kinds(&rejected)),
        };
        Ok(StageReport { rows: record.rows, summary, interrupted: false })
    }

    /// Every candidate's image, read and decoded; `None` if the run was interrupted.
    fn probe_all(&self, plan: &Plan, folder: &Path, context: &StageContext) -> Option<Vec<Probed>> {
        let limits = self.settings.limits();
        let progress = context.console.progress(self.name(), "images", plan.candidates.len() as u64);
        let probe_one = |candidate: &Candidate| {
            if context.interrupt.is_raised() {
                return None;
            }
            let probed = probe(candidate.file(folder), &limits);
            progress.add(1);
            Some(probed)
        };
        let probed: Option<Vec<Probed>> = plan.candidates.par_iter().map(probe_one).collect();
        probed.inspect(|_| progress.finish())
    }

    fn show(&self, context: &StageContext, rejected: &[RejectRow], n_out: u64) {
        for reject in rejected.iter().take(N_SHOWN) {
            context.console.warn(format!("{}: {}", reject.kind, reject.message));
        }
        if rejected.len() > N_SHOWN {
            let path = rejects_path(&self.settings);
            context
                .console
                .warn(format!("and {} more rejected rows, all listed in `{path}`", rejected.len() - N_SHOWN));
        }
        if n_out == 0 && !self.settings.no_images {
            let folder = self.settings.images.display();
            context.console.warn(format!("every row was rejected; is `{folder}` the right image folder?"));
        }
    }
}

fn rejects_path(settings: &IngestSettings) -> String {
    format!("rejects/stage={STAGE}/part-{}.parquet", settings.dataset)
}

/// Counts of rejects by kind, in descending order, e.g. `2 missing, 1 bad-mos`.
fn kinds(rejected: &[RejectRow]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reject in rejected {
        *counts.entry(&reject.kind).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

/// Reads one file and decodes it to its end. Nothing less shows that it is not cut short.
fn probe(path: PathBuf, limits: &DecodeLimits) -> Probed {
    // Taken before the bytes are read, so that a later change is noticed.
    let stamp = FileStamp::of(&path);
    let image = agiqa_images::read(&path).and_then(|bytes| {
        let (info, _) = agiqa_images::decode(&bytes, limits)?;
        Ok((ImageId::of_bytes(&bytes), bytes.len() as u64, info))
    });
    Probed { stamp, path, image }
}

/// The rows of the `images` table and the rejects, both in the order of the dataset's table.
fn sort_out(mut plan: Plan, probed: Vec<Probed>) -> (Images, Vec<RejectRow>) {
    let mut rejected = std::mem::take(&mut plan.rejects);
    let mut rows = Vec::with_capacity(probed.len());
    let mut kept: Vec<&Candidate> = Vec::with_capacity(probed.len());
    let mut seen: HashMap<ImageId, &Candidate> = HashMap::new();
    for (candidate, Probed { stamp: _, path, image }) in plan.candidates.iter().zip(probed) {
        let name = plan.name(candidate);
        let (image_id, n_bytes, ImageInfo { format, width_px, height_px }) = match image {
            Ok(image) => image,
            Err(error) => {
                let message = format!("row {}, `{name}`: {}", candidate.number(), whole_message(&error, &path));
                rejected.push(plan.reject(candidate, error.kind(), message));
                continue;
            }
        };
        if let Some(earlier) = seen.get(&image_id) {
            let message = format!(
                "row {}, `{name}`: the file holds the same bytes as `{}` of row {}, which is kept",
                candidate.number(),
                plan.name(earlier),
                earlier.number()
            );
            let reject = plan.reject(candidate, "duplicate-image", message);
            rejected.push(RejectRow { image_id: Some(image_id), ..reject });
            continue;
        }
        seen.insert(image_id, candidate);
        kept.push(candidate);
        let seen = Seen { image_id, n_bytes, width_px, height_px, format };
        rows.push(image_row(&plan, candidate, &path, seen));
    }
    let extra = plan.extra_columns(&kept);
    rejected.sort_by_key(|reject| reject.row);
    (Images { rows, extra }, rejected)
}

/// What is known of an image's content.
struct Seen {
    image_id: ImageId,
    n_bytes: u64,
    width_px: u32,
    height_px: u32,
    format: &'static str,
}

fn image_row(plan: &Plan, candidate: &Candidate, path: &Path, seen: Seen) -> ImageRow {
    let Seen { image_id, n_bytes, width_px, height_px, format } = seen;
    ImageRow {
        image_id,
        name: plan.name(candidate),
        path: text_of(path),
        n_bytes,
        width_px,
        height_px,
        format: format.to_owned(),
        generator: plan.generator(candidate),
        prompt: plan.prompt(candidate),
        mos: Some(candidate.mos),
        mos_std: candidate.mos_std,
        mos_align: candidate.mos_align,
    }
}

/// The rows of the `images` table where no image is opened. An id is of the dataset and the name, since there is no
/// content; so it is the id of no image, and nothing computed belongs to it.
fn without_images(mut plan: Plan, settings: &IngestSettings) -> (Images, Vec<RejectRow>) {
    let rejected = std::mem::take(&mut plan.rejects);
    let row = |candidate: &Candidate| {
        let name = candidate.relative.as_os_str().as_encoded_bytes();
        let bytes = [b"not opened\0", settings.dataset.to_string().as_bytes(), b"\0", name].concat();
        let seen = Seen { image_id: ImageId::of_bytes(&bytes), n_bytes: 0, width_px: 0, height_px: 0, format: "" };
        image_row(&plan, candidate, &settings.images.join(&candidate.relative), seen)
    };
    let rows = plan.candidates.iter().map(row).collect();
    let extra = plan.extra_columns(&plan.candidates.iter().collect::<Vec<_>>());
    (Images { rows, extra }, rejected)
}

/// The error's message with the path, which errors about content lack.
fn whole_message(error: &ImageError, path: &Path) -> String {
    match error {
        ImageError::Missing { .. } | ImageError::Unreadable { .. } => error.to_string(),
        ImageError::Empty
        | ImageError::NotAnImage { .. }
        | ImageError::Truncated { .. }
        | ImageError::Damaged { .. }
        | ImageError::DamagedScan { .. }
        | ImageError::Foreign { .. }
        | ImageError::TooLarge { .. }
        | ImageError::Unsupported { .. } => format!("`{}`: {error}", text_of(path)),
    }
}
