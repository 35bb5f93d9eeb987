//! All tables of parquet parts: what each is called, where its parts lie, what its columns are, which command writes it.
//!
//! Who asks for "all tables" asks here: `schemas/*.json` are printed from this list, and SQL finds its tables by it.

use super::{
    Column, checks, comparison, experiments, features, gates, images, inventory, metrics, night_scores, nights,
    rejects, scores, selections, splits, train_log,
};
use crate::store::part::PartKind;

/// Whether parts hold columns that [`Table::columns`] does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnColumns {
    /// They hold none.
    None,
    /// A dataset's own columns follow, Utf8 or Float64, nullable.
    OfDataset,
}

/// One table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name and version.
    pub kind: PartKind,
    /// Pattern of its parts' paths.
    pub path: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
    /// Columns that its parts may hold in addition.
    pub own_columns: OwnColumns,
    /// What writes it, as a sentence says it: `` `agiqa split` ``.
    pub written_by: &'static str,
    /// Columns that tell its rows apart if two writers may both have written a row; a reader keeps the row of the
    /// part that sorts first. Empty if a row is written once.
    pub key: &'static [&'static str],
}

impl Table {
    /// Name, e.g. `images`.
    pub fn name(&self) -> &'static str {
        self.kind.table
    }

    /// Folder that its parts lie below. Tables may share one.
    pub fn folder(&self) -> &'static str {
        self.path.split_once('/').map_or(self.path, |(folder, _)| folder)
    }
}

/// The tables, in the order of the data.
pub const TABLES: &[Table] = &[
    Table {
        kind: inventory::KIND,
        path: "inventory/corpus=<corpus>/part-<16 hex>.parquet",
        columns: inventory::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa score` of a corpus",
        key: &[],
    },
    Table {
        kind: images::KIND,
        path: "images/dataset=<dataset>/part-<name>.parquet",
        columns: images::COLUMNS,
        own_columns: OwnColumns::OfDataset,
        written_by: "`agiqa ingest` or `agiqa score`",
        key: &[],
    },
    Table {
        kind: splits::KIND,
        path: "splits/dataset=<dataset>/split=<split>/part-0.parquet",
        columns: splits::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa split`",
        key: &[],
    },
    Table {
        kind: features::SEMANTIC,
        path: "features/extractor=<extractor>/fingerprint=<16 hex>/part-<16 hex>.parquet",
        columns: features::SEMANTIC_COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa features`",
        key: &["extractor", "fingerprint", "image_id"],
    },
    Table {
        kind: features::QUALITY,
        path: "features/extractor=<extractor>/fingerprint=<16 hex>/part-<16 hex>.parquet",
        columns: features::QUALITY_COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa features`",
        key: &["extractor", "fingerprint", "image_id"],
    },
    Table {
        kind: train_log::KIND,
        path: "train_log/run=<run>/part-0.parquet",
        columns: train_log::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa train`",
        key: &[],
    },
    Table {
        kind: scores::KIND,
        path: "scores/scorer=<name>/fingerprint=<16 hex>/part-<16 hex>.parquet",
        columns: scores::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa predict` or `agiqa baseline`",
        key: &["scorer", "fingerprint", "image_id"],
    },
    Table {
        kind: gates::KIND,
        path: "gates/run=<run>/fingerprint=<16 hex>/part-<16 hex>.parquet",
        columns: gates::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa predict`",
        key: &["run", "fingerprint", "image_id"],
    },
    Table {
        kind: night_scores::KIND,
        path: "night_scores/scorer=<scorer>/corpus=<corpus>/night=<night>/part-<name>.parquet",
        columns: night_scores::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa score` of a corpus",
        key: &[],
    },
    Table {
        kind: nights::KIND,
        path: "nights/scorer=<scorer>/corpus=<corpus>/night=<night>/part-0.parquet",
        columns: nights::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa score` or `agiqa check` of a corpus",
        key: &[],
    },
    Table {
        kind: selections::KIND,
        path: "selections/scorer=<scorer>/corpus=<corpus>/night=<night>/part-<16 hex>.parquet",
        columns: selections::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa select` of a corpus",
        key: &[],
    },
    Table {
        kind: checks::KIND,
        path: "checks/scorer=<scorer>/corpus=<corpus>/night=<night>/part-0.parquet",
        columns: checks::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa check` of a corpus",
        key: &[],
    },
    Table {
        kind: metrics::KIND,
        path: "metrics/run=<run>/metrics.parquet",
        columns: metrics::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa evaluate`",
        key: &[],
    },
    Table {
        kind: comparison::KIND,
        path: "comparison/dataset=<dataset>/split=<split>/part=<part>/methods.parquet",
        columns: comparison::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa compare`",
        key: &[],
    },
    Table {
        kind: experiments::KIND,
        path: "experiments/experiment=<pipeline>/features=<extractors>-<8 hex>/rows.parquet",
        columns: experiments::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "`agiqa run` of a pipeline with `[experiment]`",
        key: &[],
    },
    Table {
        kind: rejects::KIND,
        path: "rejects/stage=<stage>/part-<name>.parquet",
        columns: rejects::COLUMNS,
        own_columns: OwnColumns::None,
        written_by: "a stage that leaves rows out",
        key: &[],
    },
];
