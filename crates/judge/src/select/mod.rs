//! `select`: the best of the images that were made for the same purpose, such as for one prompt.
//!
//! Reads `images`, `scores` and a split if one is named. Images are ranked within their group by score, images of equal
//! scores by id. The margin of an image is its score minus the next one's. It is uncertain if it is smaller than what two
//! scores differ by through the scorer's error alone. An image without group or score is a reject.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use polars::prelude::{Column, DataFrame, PolarsResult};
use serde::Serialize;

use crate::evaluate::listed;
use crate::metrics::{BootstrapSettings, mean_with_interval};
use crate::scorer::{ScoredImages, Scorer, ScorerError};
use agiqa_store::metric::Estimate;
use agiqa_store::stage::{Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::images::ImageRow;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::selections::{self, SelectionRow};
use agiqa_store::tables::splits::Part;

mod links;

pub use links::LinkKind;

/// A selection that cannot be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum SelectError {
    /// There is no such column.
    #[error("dataset `{dataset}` has no column `{column}` to group by{hint}; the columns are: {available}")]
    UnknownColumn { dataset: PartitionName, column: String, hint: String, available: String },
    /// The folder of links cannot be used.
    #[error("cannot put images into folder `{}`: {reason}", folder.display())]
    Folder { folder: PathBuf, reason: String },
    /// The scores cannot be read.
    #[error(transparent)]
    Scorer(#[from] ScorerError),
}

/// One ranked image.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Row in the dataset's table.
    pub row: usize,
    /// Number of its group.
    pub group: usize,
    /// Rank in its group, from 1.
    pub rank: usize,
    /// Number of ranked images of its group.
    pub n_candidates: usize,
    /// Its score. Higher is better.
    pub score: f64,
    /// Its score minus the next one's; none for the last.
    pub margin: Option<f64>,
}

/// What choosing is worth, over the groups of at least two images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gain {
    /// Number of groups.
    pub n_groups: usize,
    /// Mean over groups of the chosen images' mean value.
    pub chosen: Option<f64>,
    /// Mean over groups of all images' mean value: what a random choice gives.
    pub random: Option<f64>,
    /// Mean over groups of what the best choice gives.
    pub best: Option<f64>,
    /// `chosen` minus `random`, with its 95 % interval over resampled groups.
    pub gain: Estimate,
    /// Share of groups whose first image has the greatest value.
    pub hit: Option<f64>,
    /// The share that a random choice gives.
    pub random_hit: Option<f64>,
}

/// Ranks each group of `(group, row, score)`, best first. Equal scores are in the order of `tie`.
pub fn ranked<T: Ord>(mut candidates: Vec<(usize, usize, f64)>, tie: impl Fn(usize) -> T) -> Vec<Ranked> {
    candidates.sort_by(|a, b| a.0.cmp(&b.0).then(b.2.total_cmp(&a.2)).then_with(|| tie(a.1).cmp(&tie(b.1))));
    let mut ranked = Vec::with_capacity(candidates.len());
    for of_group in candidates.chunk_by(|a, b| a.0 == b.0) {
        for (index, &(group, row, score)) in of_group.iter().enumerate() {
            let margin = of_group.get(index + 1).map(|next| score - next.2);
            ranked.push(Ranked { row, group, rank: index + 1, n_candidates: of_group.len(), score, margin });
        }
    }
    ranked
}

/// What choosing the first `top` of each group is worth in `value`. A group counts if all its images have a value and
/// there is a choice.
pub fn gain(
    ranked: &[Ranked],
    top: usize,
    value: impl Fn(&Ranked) -> Option<f64>,
    bootstrap: &BootstrapSettings,
) -> Gain {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mut groups: Vec<[f64; 5]> = Vec::new();
    for of_group in ranked.chunk_by(|a, b| a.group == b.group) {
        let values: Option<Vec<f64>> = of_group.iter().map(&value).collect();
        let Some(values) = values.filter(|values| values.len() > 1) else { continue };
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let n_best = sorted.iter().filter(|value| **value == sorted[0]).count() as f64;
        let n_chosen = top.min(values.len());
        let is_hit = f64::from(u8::from(values[0] == sorted[0]));
        groups.push([
            mean(&values[..n_chosen]),
            mean(&values),
            mean(&sorted[..n_chosen]),
            is_hit,
            n_best / values.len() as f64,
        ]);
    }
    let column = |index: usize| groups.iter().map(|group| group[index]).collect::<Vec<f64>>();
    let over_groups = |index: usize| (!groups.is_empty()).then(|| mean(&column(index)));
    let gains: Vec<f64> = groups.iter().map(|group| group[0] - group[1]).collect();
    Gain {
        n_groups: groups.len(),
        chosen: over_groups(0),
        random: over_groups(1),
        best: over_groups(2),
        gain: mean_with_interval(&gains, bootstrap),
        hit: over_groups(3),
        random_hit: over_groups(4),
    }
}

/// The best images of each group.
#[derive(Debug)]
pub struct SelectStage {
    /// Dataset.
    pub dataset: PartitionName,
    /// Part of a split; `None` for all images.
    pub part: Option<(PartitionName, Part)>,
    /// What gives the scores.
    pub scorer: Scorer,
    /// Columns whose values form the groups.
    pub by: Vec<String>,
    /// Number of images that are chosen from each group.
    pub top: usize,
    /// Margin below which a choice is uncertain. Default: the error of the run on its test part divided by √2.
    pub uncertain_below: Option<f64>,
    /// Intervals.
    pub bootstrap: BootstrapSettings,
    /// Where the chosen images are to appear, and as what.
    pub links: Option<(PathBuf, LinkKind)>,
    /// The corpus' night that the dataset is. Its ranked images become rows of `selections`.
    pub night: Option<ScoredNight>,
    /// The records of the runs.
    pub records: Runs,
    /// What the stage found when it ran.
    pub selection: Mutex<Option<Selection>>,
}

/// The ranked images of a dataset.
#[derive(Debug)]
pub struct Selection {
    /// The images and their scores.
    pub scored: ScoredImages,
    /// Values of the columns that form groups, per row of the table.
    by: Vec<(String, Vec<Option<String>>)>,
    /// All ranked images, group by group, best first.
    pub ranked: Vec<Ranked>,
    /// Number of images that are chosen from each group.
    pub top: usize,
    /// Margin below which a choice is uncertain, if it is known.
    pub uncertain_below: Option<f64>,
    /// What choosing is worth in score and in MOS.
    pub gains: [Gain; 2],
}

impl SelectStage {
    fn run_stage(&self, context: &StageContext) -> Result<StageReport, SelectError> {
        let store = &context.store;
        let scored = ScoredImages::read(store, &self.dataset, self.part.as_ref(), &self.scorer, &self.records)?;
        let mut by = Vec::new();
        for column in &self.by {
            by.push((
                column.clone(),
                scored.images.column_text(column).ok_or_else(|| self.unknown_column(column, &scored))?,
            ));
        }
        let (mut groups, mut seen) = (BTreeMap::new(), HashSet::new());
        let (mut candidates, mut rejects) = (Vec::new(), Vec::new());
        for &row in &scored.rows {
            let key =
                by.iter().map(|(_, values)| values[row].as_deref().map(str::trim).filter(|value| !value.is_empty()));
            let key: Option<Vec<&str>> = key.collect();
            let image = &scored.images.rows[row];
            // A copy of an image is no further candidate.
            if !seen.insert((image.image_id, key.clone())) {
                continue;
            }
            let n_groups = groups.len();
            match (key, scored.score(row)) {
                (None, _) => rejects.push(self.reject("no-group", image, format!("it has no {}", self.by.join(", ")))),
                (_, None) => rejects.push(self.reject(
                    "no-score",
                    image,
                    format!("`{}` has not scored it", scored.scores.scorer),
                )),
                (Some(key), Some(score)) => candidates.push((*groups.entry(key).or_insert(n_groups), row, score)),
            }
        }
        let n_groups = groups.len();
        let ranked = ranked(candidates, |row| (scored.images.rows[row].image_id, &scored.images.rows[row].name));
        let chosen = || ranked.iter().filter(|ranked| ranked.rank <= self.top);
        if let Some((folder, kind)) = &self.links {
            let images: Vec<&ImageRow> = chosen().map(|ranked| &scored.images.rows[ranked.row]).collect();
            let failed = links::put(folder, *kind, &images)?;
            rejects.extend(failed.into_iter().map(|(image, kind, message)| self.reject(kind, image, message)));
        }
        let n_rejected = rejects.len() as u64;
        let name = rejects::name_of(&self.dataset, &scored.scores.scorer).map_err(ScorerError::from)?;
        rejects::replace(store, "select", &name, &rejects).map_err(ScorerError::from)?;
        let limit = self.uncertain_below.or(scored.scores.rmse.map(|rmse| rmse / std::f64::consts::SQRT_2));
        let n_uncertain =
            limit.map(|limit| chosen().filter(|ranked| ranked.margin.is_some_and(|margin| margin < limit)).count());
        let uncertain = n_uncertain.map_or_else(String::new, |n| format!(", {n} of them uncertain"));
        let n_in = seen.len() as u64;
        let summary = format!(
            "{} of {n_in} images chosen from {n_groups} groups{uncertain}, {n_rejected} rejected",
            chosen().count()
        );
        let mos = |ranked: &Ranked| scored.images.rows[ranked.row].mos;
        let gains = [
            gain(&ranked, self.top, |ranked| Some(ranked.score), &self.bootstrap),
            gain(&ranked, self.top, mos, &self.bootstrap),
        ];
        let selection = Selection { by, ranked, top: self.top, uncertain_below: limit, gains, scored };
        if let Some(night) = &self.night {
            selections::write(store, night, &self.by.join(","), &selection.rows()).map_err(ScorerError::from)?;
        }
        *self.selection.lock().unwrap_or_else(PoisonError::into_inner) = Some(selection);
        let rows = RowCounts { n_in, n_out: n_in - n_rejected, n_rejected, ..RowCounts::default() };
        Ok(StageReport { rows, summary, interrupted: false })
    }

    fn reject(&self, kind: &str, image: &ImageRow, message: String) -> RejectRow {
        RejectRow {
            dataset: Some(self.dataset.to_string()),
            image_id: Some(image.image_id),
            path: Some(image.path.clone()),
            ..RejectRow::now(kind, message)
        }
    }

    fn unknown_column(&self, column: &str, scored: &ScoredImages) -> SelectError {
        let available = scored.images.groupable_columns();
        let names = || available.iter().map(String::as_str);
        let hint = agiqa_suggest::question(column, names());
        let hint = hint.trim_end_matches('?').to_owned();
        SelectError::UnknownColumn {
            dataset: self.dataset.clone(),
            column: column.to_owned(),
            hint,
            available: listed(names()),
        }
    }
}

impl Stage for SelectStage {
    fn name(&self) -> String {
        format!("select from {}", self.dataset)
    }

    fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
        Ok(Freshness::Stale { reason: format!("the best {} by {}", self.top, self.by.join(", ")) })
    }

    fn run(&self, context: &StageContext) -> Result<StageReport, StageError> {
        Ok(self.run_stage(context)?)
    }
}

impl Selection {
    /// The rows of the table `selections`.
    fn rows(&self) -> Vec<SelectionRow<'_>> {
        let Self { scored, by, ranked, top, uncertain_below, gains: _ } = self;
        let groups = scored.images.column_text("group_id");
        let row = |ranked: &Ranked| {
            let Ranked { row, rank, n_candidates, score, margin, group: _ } = *ranked;
            let image = &scored.images.rows[row];
            let values: Vec<&str> = by.iter().filter_map(|(_, values)| values[row].as_deref().map(str::trim)).collect();
            SelectionRow {
                group: match values.as_slice() {
                    [value] => (*value).to_owned(),
                    several => serde_json::json!(several).to_string(),
                },
                group_id: groups.as_ref().and_then(|groups| groups[row].clone()),
                prompt: image.prompt.as_deref(),
                generator: image.generator.as_deref(),
                image_id: image.image_id,
                uri: &image.path,
                rank,
                n_candidates,
                score,
                margin,
                is_uncertain: margin.zip(*uncertain_below).map(|(margin, limit)| margin < limit),
                is_chosen: rank <= *top,
            }
        };
        ranked.iter().map(row).collect()
    }

    /// One row per ranked image.
    ///
    /// # Errors
    /// Fails if polars refuses the columns, which would be a bug.
    pub fn frame(&self) -> PolarsResult<DataFrame> {
        let Self { scored, by, ranked, top, uncertain_below, gains: _ } = self;
        let image = |ranked: &Ranked| &scored.images.rows[ranked.row];
        let mut columns: Vec<Column> = Vec::new();
        let mut text = |name: &str, value: &dyn Fn(&Ranked) -> Option<String>| {
            if columns.iter().all(|column| column.name() != name) {
                columns.push(Column::new(name.into(), ranked.iter().map(value).collect::<Vec<_>>()));
            }
        };
        for (name, values) in by {
            text(name, &|ranked| values[ranked.row].as_deref().map(|value| value.trim().to_owned()));
        }
        text("generator", &|ranked| image(ranked).generator.clone());
        text("image_id", &|ranked| Some(image(ranked).image_id.to_string()));
        text("name", &|ranked| Some(image(ranked).name.clone()));
        text("path", &|ranked| Some(image(ranked).path.clone()));
        let uncertain = |ranked: &Ranked| Some(ranked.margin? < (*uncertain_below)?);
        columns.extend([
            Column::new("rank".into(), ranked.iter().map(|ranked| ranked.rank as i64).collect::<Vec<_>>()),
            Column::new(
                "n_candidates".into(),
                ranked.iter().map(|ranked| ranked.n_candidates as i64).collect::<Vec<_>>(),
            ),
            Column::new("score".into(), ranked.iter().map(|ranked| ranked.score).collect::<Vec<_>>()),
            Column::new("margin".into(), ranked.iter().map(|ranked| ranked.margin).collect::<Vec<_>>()),
            Column::new("uncertain".into(), ranked.iter().map(uncertain).collect::<Vec<_>>()),
            Column::new("chosen".into(), ranked.iter().map(|ranked| ranked.rank <= *top).collect::<Vec<_>>()),
        ]);
        DataFrame::new(ranked.len(), columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gain_is_the_chosen_images_value_over_the_groups_mean() {
        let candidates = vec![(1, 5, 3.0), (0, 0, 1.0), (0, 1, 4.0), (0, 2, 4.0), (1, 3, 2.0), (2, 4, 9.0)];
        let ranked = ranked(candidates, |row| row);
        let order: Vec<(usize, usize, Option<f64>)> = ranked.iter().map(|r| (r.row, r.rank, r.margin)).collect();
        let expected =
            [(1, 1, Some(0.0)), (2, 2, Some(3.0)), (0, 3, None), (5, 1, Some(1.0)), (3, 2, None), (4, 1, None)];
        assert_eq!(order, expected);
        // The first group's best by value is row 0, the second's is row 5. The third offers no choice.
        let values = [6.0, 3.0, 0.0, 1.0, 7.0, 2.0];
        let found = gain(&ranked, 1, |r| Some(values[r.row]), &BootstrapSettings { resamples: 0, seed: 0 });
        assert_eq!((found.n_groups, found.chosen, found.random, found.best), (2, Some(2.5), Some(2.25), Some(4.0)));
        assert_eq!(
            (found.gain.value, found.hit, found.random_hit),
            (Some(0.25), Some(0.5), Some((1.0 / 3.0 + 0.5) / 2.0))
        );
        let of_two = gain(&ranked, 2, |r| Some(values[r.row]), &BootstrapSettings { resamples: 0, seed: 0 });
        assert_eq!((of_two.chosen, of_two.best), (Some(1.5), Some(3.0)));
        assert_eq!(gain(&ranked, 1, |_| None, &BootstrapSettings::default()).gain, Estimate::default());
    }
}
