//! The places of scores in version 1 of a store.
//!
//! ```text
//! baselines/method=<method>/fingerprint=<16 hex>/{method.json, part-<16 hex>.parquet}
//! predictions/run=<run>/part-….parquet
//! features/extractor=<extractor>/fingerprint=<16 hex>/part-….parquet    column `rating`; still written
//! ```

use super::{PartKind, RunRecord, ScoreSet, ScorerKind, Source};
use crate::tables::features;

/// The table of methods' scores.
pub(super) const METHODS: &str = "baselines";

/// The table of runs' scores.
pub(super) const RUNS: &str = "predictions";

/// The older place of `set`'s scores, if the set belongs to a method or a rating.
pub(super) fn source(set: &ScoreSet) -> Option<Source> {
    let ScoreSet { scorer, fingerprint, .. } = set;
    let fingerprint = fingerprint.short();
    match set.kind {
        ScorerKind::Method => Some(Source {
            prefix: format!("{METHODS}/method={scorer}/fingerprint={fingerprint}"),
            kind: PartKind { table: METHODS, version: 1 },
            column: "score",
        }),
        ScorerKind::Rating => Some(Source {
            prefix: format!("features/extractor={scorer}/fingerprint={fingerprint}"),
            kind: features::QUALITY,
            column: features::RATING,
        }),
        ScorerKind::Run => None,
    }
}

/// The older place of a run's scores. They belong to the run's record only if the record has version 1, because
/// predictions carry no fingerprint of the training.
pub(super) fn source_of_run(record: &RunRecord) -> Option<Source> {
    (record.schema_version == 1).then(|| Source {
        prefix: format!("{RUNS}/run={}", record.run),
        kind: PartKind { table: RUNS, version: 1 },
        column: "score",
    })
}
