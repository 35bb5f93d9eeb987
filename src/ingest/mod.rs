//! `ingest`: turns a MOS table and a folder of images into the `images` table of one dataset.
//!
//! One row of `images` is one row of the dataset's table whose image was opened, identified by content and decoded to
//! its end. `generator`, `prompt`, `mos_std` and `mos_align` may be null; columns of the dataset that have no meaning
//! here are kept behind the fixed ones, and `table_row` says which row of the table it was (from 1, after the header).
//! Every other row is a reject with its number, its name and one of these kinds:
//!
//! | kind | the row or its image |
//! |---|---|
//! | `ragged-row` | has more or fewer cells than the header, or is not a JSON object |
//! | `not-utf8` | is not UTF-8 text |
//! | `empty-name` | names no image |
//! | `escapes-folder` | has a name that is absolute or leads out of the image folder |
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

use rayon::prelude::*;

use agiqa_images::{DecodeLimits, ImageError, ImageInfo};
use agiqa_store::identity::ImageId;
use agiqa_store::path_text::text_of;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::derived::Derived;
use agiqa_store::store::part::PartError;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::store::{Store, StoreError};
use agiqa_store::tables::images::{self, ImageRow, Images};
use agiqa_store::tables::rejects::{self, RejectRow};

mod plan;
mod record;
mod settings;
mod table;

use plan::{Candidate, Plan};
use record::{FileStamp, StampDigest};

pub use record::IngestRecord;
pub use settings::{Adapter, ColumnNames, IngestSettings, NameRule, SettingsError};
pub use table::TableFormat;

/// Version of the rules that turn a table into rows. It is raised if the same inputs give other rows.
const VERSION: u32 = 1;

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
    Settings(#[from] SettingsError),
    /// The table file cannot be read.
    #[error("cannot read MOS table `{}`", path.display())]
    ReadTable { path: PathBuf, source: std::io::Error },
    /// The file name does not tell the format.
    #[error(
        "cannot tell the format of MOS table `{}` by its name: expected one of csv, tsv, json, jsonl, parquet, xlsx; \
         name it with `format`",
        path.display()
    )]
    UnknownFormat { path: PathBuf },
    /// The file is not a table of its format.
    #[error("cannot understand MOS table `{}`: {reason}", path.display())]
    MalformedTable { path: PathBuf, reason: String },
    /// The table has no data rows.
    #[error("MOS table `{}` has no data rows", path.display())]
    NoRows { path: PathBuf },
    /// A column is missing.
    #[error("MOS table `{}` has no column `{column}` (for `{key}`); there are: {columns}{suggestion}", path.display())]
    MissingColumn {
        path: PathBuf,
        key: &'static str,
        column: String,
        columns: String,
        /// The nearest column, as a question; empty if none is near.
        suggestion: String,
    },
    /// Two columns have the name of a needed column.
    #[error("MOS table `{}` has more than one column `{column}`: rename all but one", path.display())]
    RepeatedColumn { path: PathBuf, column: String },
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

impl IngestError {
    fn missing_column(path: &Path, key: &'static str, column: &str, columns: &[String]) -> Self {
        Self::MissingColumn {
            path: path.to_owned(),
            key,
            column: column.to_owned(),
            columns: format!("`{}`", columns.join("`, `")),
            suggestion: agiqa_suggest::question(column, columns.iter().map(String::as_str)),
        }
    }
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
    fn image_folder(&self) -> Result<PathBuf, IngestError> {
        let path = &self.settings.images;
        let error = |source| IngestError::ImageFolder { path: path.clone(), source };
        let folder = path.canonicalize().map_err(error)?;
        // Fails if the path is not a folder or must not be searched. Otherwise every image would seem to be missing.
        std::fs::read_dir(&folder).map_err(error)?;
        Ok(folder)
    }

    fn look(&self, store: &Store) -> Result<Freshness, IngestError> {
        let stale = |reason: &str| Ok(Freshness::Stale { reason: reason.to_owned() });
        if self.rerun == Rerun::Always {
            return stale("asked for explicitly");
        }
        let (plan, folder) = (Plan::of(&self.settings)?, self.image_folder()?);
        let dataset = &self.settings.dataset;
        let Some(found) = IngestRecord::read(store, dataset)? else { return stale("not ingested yet") };
        let now = IngestRecord::new(&self.settings, &plan.table_hash, &StampDigest::of_plan(&plan, &folder))?;
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
        let rows = RowCounts { n_cached: found.rows.n_out, ..found.rows };
        let reason = format!("nothing changed: {} images, {} rejected", rows.n_out, rows.n_rejected);
        Ok(Freshness::Current { reason, rows })
    }

    fn ingest(&self, context: &StageContext) -> Result<StageReport, IngestError> {
        let (plan, folder) = (Plan::of(&self.settings)?, self.image_folder()?);
        let n_in = plan.n_rows() as u64;
        let limits = self.settings.limits();
        let progress = context.console.progress(self.name(), "images", plan.candidates.len() as u64);
        let probe_one = |candidate: &Candidate| {
            if context.interrupt.is_raised() {
                return None;
            }
            let probed = probe(candidate.file(&folder), &limits);
            progress.add(1);
            Some(probed)
        };
        let probed: Option<Vec<Probed>> = plan.candidates.par_iter().map(probe_one).collect();
        let Some(probed) = probed else {
            let rows = RowCounts { n_in, n_left: n_in, ..RowCounts::default() };
            let summary = "interrupted; the dataset is unchanged".to_owned();
            return Ok(StageReport { rows, summary, interrupted: true });
        };
        progress.finish();
        let mut stamps = StampDigest::default();
        for (candidate, probed) in plan.candidates.iter().zip(&probed) {
            stamps.add(candidate, probed.stamp);
        }
        let mut record = IngestRecord::new(&self.settings, &plan.table_hash, &stamps)?;
        let (table, rejected) = sort_out(plan, probed);
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
        if n_out == 0 {
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
        let name = &candidate.name;
        let (image_id, n_bytes, ImageInfo { format, width_px, height_px }) = match image {
            Ok(image) => image,
            Err(error) => {
                let message = format!("row {}, `{name}`: {}", plan.number(candidate), whole_message(&error, &path));
                rejected.push(plan.reject(candidate, error.kind(), message));
                continue;
            }
        };
        if let Some(earlier) = seen.get(&image_id) {
            let message = format!(
                "row {}, `{name}`: the file holds the same bytes as `{}` of row {}, which is kept",
                plan.number(candidate),
                earlier.name,
                plan.number(earlier)
            );
            let reject = plan.reject(candidate, "duplicate-image", message);
            rejected.push(RejectRow { image_id: Some(image_id), ..reject });
            continue;
        }
        seen.insert(image_id, candidate);
        kept.push(candidate);
        rows.push(ImageRow {
            image_id,
            name: name.clone(),
            path: text_of(&path),
            n_bytes,
            width_px,
            height_px,
            format: format.to_owned(),
            generator: candidate.generator.clone(),
            prompt: candidate.prompt.clone(),
            mos: Some(candidate.mos),
            mos_std: candidate.mos_std,
            mos_align: candidate.mos_align,
        });
    }
    let extra = plan.extra_columns(&kept);
    rejected.sort_by_key(|reject| reject.row);
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
