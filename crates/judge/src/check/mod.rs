//! `check`: whether the images of a dataset and their scores are as good as they should be, from the tables alone.
//!
//! Reads `images`, `scores`, `rejects`, and the scores of another dataset or of the run's test part to compare with. A
//! difference counts only if it exceeds its limit and what chance alone explains. A check without anything to compare
//! with passes and says so.

use std::collections::{BTreeSet, HashSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::scorer::{ScoredImages, Scorer, ScorerError};
use agiqa_store::store::Store;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::rejects;
use agiqa_store::tables::splits::Part;

pub mod drift;

use drift::{Drift, Histogram};

/// Default limit of the population stability index.
pub const MAX_PSI: f64 = 0.2;

/// Default limit of D.
pub const MAX_KS: f64 = 0.1;

/// Default limit of the share of rejects.
const MAX_REJECTS: f64 = 0.01;

/// Default limit of the standard deviation from below, as a share of the scale.
const MIN_STD: f64 = 0.01;

/// Default limit of the drop of a mean, as a share of the scale.
const MAX_DROP: f64 = 0.1;

/// Fewest scores that are compared with others, unless a check says otherwise.
const MIN_N: usize = 100;

/// What a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Number of images.
    Images,
    /// Share of the images that were rejected, at ingest or later, and have no score.
    RejectShare,
    /// Share of the images that have neither score nor reject.
    UnscoredShare,
    /// Share of the rows whose image stands in an earlier row.
    DuplicateShare,
    /// Population stability index of the scores.
    Psi,
    /// Kolmogorov and Smirnov's D of the scores.
    Ks,
    /// Wasserstein's distance of the scores.
    W1,
    /// Mean score.
    Mean,
    /// Standard deviation of the scores.
    ScoreStd,
}

/// What a check compares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The other dataset that the command names.
    #[default]
    Previous,
    /// The test part that the run was judged on.
    Test,
}

/// Whether a check that does not pass fails the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does: exit code 1.
    #[default]
    Fail,
    /// It is only said.
    Warn,
}

fn all() -> String {
    "all".to_owned()
}

/// One check. A limit that is left out has its default; `mean` and `images` have none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSettings {
    /// What it looks at.
    pub of: Of,
    /// `all`, `<column>=<value>`, or `<column>=*` for each value of the column.
    #[serde(default = "all")]
    pub scope: String,
    /// Greatest value.
    pub max: Option<f64>,
    /// Smallest value.
    pub min: Option<f64>,
    /// Greatest drop of the mean. Higher scores are better; a drop is a change for the worse.
    pub max_drop: Option<f64>,
    /// What it compares with.
    #[serde(default)]
    pub against: Against,
    /// Fewest scores on either side of a comparison.
    pub min_n: Option<usize>,
    /// Whether it fails the command.
    #[serde(default)]
    pub severity: Severity,
}

impl CheckSettings {
    fn new(of: Of, severity: Severity) -> Self {
        let (scope, against) = (all(), Against::Previous);
        Self { of, scope, max: None, min: None, max_drop: None, against, min_n: None, severity }
    }

    /// What is wrong with these limits.
    pub fn problem(&self) -> Option<&'static str> {
        let has_limit = self.max.or(self.min).is_some();
        match self.of {
            Of::Images if !has_limit => Some("a check of images has no limit: give `min` or `max`"),
            of if self.max_drop.is_some() && (of != Of::Mean || has_limit) => {
                Some("`max_drop` is a limit of `mean`, without `min` and `max`")
            }
            _ => None,
        }
    }

    /// The checks that run where none are named.
    pub fn defaults() -> Vec<Self> {
        use {Of::*, Severity::*};
        let pairs = [(RejectShare, Fail), (UnscoredShare, Fail), (DuplicateShare, Warn), (ScoreStd, Fail), (Psi, Warn)];
        let mut checks: Vec<Self> = pairs.into_iter().map(|(of, severity)| Self::new(of, severity)).collect();
        checks.push(Self::new(Ks, Fail));
        checks.push(Self { scope: "generator=*".to_owned(), ..Self::new(Mean, Fail) });
        checks
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// What it looked at.
    pub check: Of,
    /// The images that it looked at.
    pub scope: String,
    /// What it found.
    pub value: Option<f64>,
    /// What it allows.
    pub limit: Option<f64>,
    /// Whether the value is within the limit, or nothing could be compared.
    pub passed: bool,
    /// Whether it fails the command.
    pub severity: Severity,
    /// The finding in words.
    pub message: String,
}

impl Checked {
    /// `ok`, `warn` or `FAIL`.
    pub fn outcome(&self) -> &'static str {
        match (self.passed, self.severity) {
            (true, _) => "ok",
            (false, Severity::Warn) => "warn",
            (false, Severity::Fail) => "FAIL",
        }
    }

    /// Name of what it looked at, as in settings.
    pub fn name(&self) -> String {
        serde_json::to_value(self.check).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
    }
}

/// Scores by scope, with what belongs to a whole dataset.
struct Night {
    scored: ScoredImages,
    what: String,
}

impl Night {
    /// Scores of the images whose column has the value; of all images without a column.
    fn scores(&self, subset: Option<(&str, &str)>) -> Vec<f64> {
        let values = subset.map(|(column, value)| (self.scored.images.column_text(column).unwrap_or_default(), value));
        let is_in = |row: usize| {
            values.as_ref().is_none_or(|(values, value)| values.get(row).and_then(Option::as_deref) == Some(*value))
        };
        let rows = self.scored.rows.iter().copied().filter(|row| is_in(*row));
        rows.filter_map(|row| self.scored.score(row)).collect()
    }
}

/// Counts of a dataset's images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// Images, with files that never became a row of the table.
    pub n_images: f64,
    /// Images that were rejected and have no score.
    pub n_rejected: f64,
    /// Images that have neither score nor reject.
    pub n_unscored: f64,
    /// Rows whose image stands in an earlier row.
    pub n_duplicates: f64,
}

/// Whether a stage of this name judges scores, so that its rejects are no failures of scoring.
pub fn is_of_judging(stage: &str) -> bool {
    matches!(stage, "select" | "evaluate")
}

/// Runs `checks` on the scores that `scorer` gave to `dataset`, against those of `previous`.
///
/// # Errors
/// Fails if a dataset or the scorer does not exist, or if the scorer has scored no image.
pub fn check(
    store: &Store,
    dataset: &PartitionName,
    previous: Option<&PartitionName>,
    scorer: &Scorer,
    checks: &[CheckSettings],
) -> Result<Vec<Checked>, ScorerError> {
    let records = Runs::default();
    let read = |dataset: &PartitionName, part: Option<&(PartitionName, Part)>, what: String| {
        Ok::<_, ScorerError>(Night { scored: ScoredImages::read(store, dataset, part, scorer, &records)?, what })
    };
    let now = read(dataset, None, format!("`{dataset}`"))?;
    let previous = previous.map(|name| read(name, None, format!("`{name}`"))).transpose()?;
    let wants_test = checks.iter().any(|check| check.against == Against::Test);
    let run = match scorer {
        _ if !wants_test => None,
        Scorer::Run(run) => Some(run.clone()),
        Scorer::Group(group) => records.of_group(store, group)?.into_iter().next(),
        Scorer::Method(_) => None,
    };
    let test = match run {
        Some(run) => {
            let record = records.get(store, &run)?;
            Some(read(&record.dataset, Some(&(record.split.clone(), Part::Test)), "the run's test part".to_owned())?)
        }
        None => None,
    };
    let counts = counts(store, dataset, &now.scored)?;
    let known = previous.iter().chain(&test).flat_map(|night| night.scores(None)).chain(now.scores(None));
    let scale = now.scored.scale.clone().unwrap_or_else(|| middle(known.collect()));
    let context = Checking { now: &now, counts, scale };
    let mut found = Vec::new();
    for settings in checks {
        let other = match settings.against {
            Against::Previous => previous.as_ref(),
            Against::Test => test.as_ref(),
        };
        context.run(settings, other, &mut found);
    }
    Ok(found)
}

/// Counts of `dataset`, whose scores are `scored`.
///
/// # Errors
/// Fails if a table cannot be read.
pub fn counts(store: &Store, dataset: &PartitionName, scored: &ScoredImages) -> Result<Counts, ScorerError> {
    let objects = store.list("rejects")?;
    let stages = objects.iter().filter_map(|object| object.path.strip_prefix("rejects/stage=")?.split('/').next());
    // The rejects of other stages are images that were scored, or could have been.
    let stages: BTreeSet<&str> = stages.filter(|stage| !is_of_judging(stage)).collect();
    let ids: HashSet<_> = scored.images.rows.iter().map(|row| row.image_id).collect();
    let (mut rejected, mut unread) = (HashSet::new(), BTreeSet::new());
    for stage in stages {
        for row in rejects::read(store, stage)? {
            match row.image_id.filter(|id| ids.contains(id)) {
                // What was wrong with an image on an earlier night is wrong today.
                Some(id) => _ = rejected.insert(id),
                // It never became a row of the table.
                None if row.dataset.as_deref() == Some(dataset.as_str()) => _ = unread.insert((row.path, row.row)),
                None => {}
            }
        }
    }
    let unscored: Vec<_> = ids.iter().filter(|id| !scored.of_image.contains_key(id)).collect();
    let n_rejected = unscored.iter().filter(|id| rejected.contains(**id)).count();
    Ok(Counts {
        n_images: (ids.len() + unread.len()) as f64,
        n_rejected: (n_rejected + unread.len()) as f64,
        n_unscored: (unscored.len() - n_rejected) as f64,
        n_duplicates: (scored.images.rows.len() - ids.len()) as f64,
    })
}

/// The range of all `scores` but the lowest and the highest hundredth: a method has outliers that would stretch a scale. It is
/// the scale where the scorer has learned from no MOS.
pub fn middle(mut scores: Vec<f64>) -> RangeInclusive<f64> {
    scores.sort_by(f64::total_cmp);
    let at = |place: usize| scores.get(place).copied().unwrap_or(0.0);
    at(scores.len() / 100)..=at(scores.len().saturating_sub(1 + scores.len() / 100))
}

/// Number, mean and variance (n − 1) of scores.
fn moments(scores: &[f64]) -> (f64, f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (n, mean, variance)
}

struct Checking<'a> {
    now: &'a Night,
    counts: Counts,
    scale: RangeInclusive<f64>,
}

impl Checking<'_> {
    fn run(&self, settings: &CheckSettings, other: Option<&Night>, found: &mut Vec<Checked>) {
        let Counts { n_images, n_rejected, n_unscored, n_duplicates } = self.counts;
        let shared = |n: f64, what: &str| (Some(n / n_images), format!("{n} of {n_images} images {what}"));
        let mut add = |scope: &str, value: Option<f64>, max: Option<f64>, min: Option<f64>, message: String| {
            for (limit, is_max) in [(max, true), (min, false)] {
                let Some(limit) = limit else { continue };
                let passed = value.is_none_or(|value| if is_max { value <= limit } else { value >= limit });
                let (scope, message) = (scope.to_owned(), message.clone());
                let (check, limit, severity) = (settings.of, Some(limit), settings.severity);
                found.push(Checked { check, scope, value, limit, passed, severity, message });
            }
        };
        let (max, min) = (settings.max, settings.min);
        match settings.of {
            Of::Images => add("all", Some(n_images), max, min, String::new()),
            Of::RejectShare => {
                let (value, message) = shared(n_rejected, "rejected (table `rejects`)");
                add("all", value, max.or(Some(MAX_REJECTS)), min, message);
            }
            Of::UnscoredShare => {
                let (value, message) = shared(n_unscored, "have neither score nor reject");
                add("all", value, max.or(Some(0.0)), min, message);
            }
            Of::DuplicateShare => {
                let (value, message) = shared(n_duplicates, "occur more than once");
                add("all", value, max.or(Some(MAX_REJECTS)), min, message);
            }
            Of::Psi | Of::Ks | Of::W1 | Of::Mean | Of::ScoreStd => {
                for (scope, subset) in self.scopes(&settings.scope) {
                    let subset = subset.as_ref().map(|(column, value)| (column.as_str(), value.as_str()));
                    let (value, max, min, message) = self.scores(settings, subset, other);
                    add(&scope, value, max, min, message);
                }
            }
        }
    }

    /// Names of scopes, with column and value.
    fn scopes(&self, scope: &str) -> Vec<(String, Option<(String, String)>)> {
        match scope.split_once('=') {
            Some((column, "*")) => {
                let values = self.now.scored.images.column_text(column).unwrap_or_default();
                let values: BTreeSet<String> = values.into_iter().flatten().collect();
                values
                    .into_iter()
                    .map(|value| (format!("{column}={value}"), Some((column.to_owned(), value))))
                    .collect()
            }
            Some((column, value)) => vec![(scope.to_owned(), Some((column.to_owned(), value.to_owned())))],
            None => vec![(scope.to_owned(), None)],
        }
    }

    /// Value, limits and message of a check of scores.
    fn scores(
        &self,
        settings: &CheckSettings,
        subset: Option<(&str, &str)>,
        other: Option<&Night>,
    ) -> (Option<f64>, Option<f64>, Option<f64>, String) {
        let width = self.scale.end() - self.scale.start();
        let now = self.now.scores(subset);
        let (n, mean, variance) = moments(&now);
        let CheckSettings { max, min, max_drop, .. } = *settings;
        match settings.of {
            Of::ScoreStd => {
                let value = Some(variance.sqrt()).filter(|value| value.is_finite());
                // Where all scores are one number, the scale of a method's scores at hand has no width either.
                let least = (MIN_STD * width).max(1e-6 * mean.abs()).max(f64::MIN_POSITIVE);
                return (value, max, min.or(Some(least)), format!("{n} scores, mean {mean:.4}"));
            }
            // Limits of the mean itself need no comparison.
            Of::Mean if max.or(min).is_some() => {
                return (Some(mean).filter(|mean| mean.is_finite()), max, min, format!("{n} scores"));
            }
            _ => {}
        }
        let nothing = |why: String| (None, Some(max.or(max_drop).unwrap_or(0.0)), None, why);
        let Some(other) = other else { return nothing("nothing to compare with: passes".to_owned()) };
        let before = other.scores(subset);
        let (m, mean_before, variance_before) = moments(&before);
        let min_n = settings.min_n.unwrap_or(MIN_N);
        if now.len().min(before.len()) < min_n.max(2) {
            return nothing(format!("too few to compare: {n} against {m} scores, fewer than {min_n}"));
        }
        if settings.of == Of::Mean {
            // Welch's standard error: what chance alone explains in 99 of 100 cases is no drop.
            let chance = 2.33 * (variance / n + variance_before / m).sqrt();
            let limit = max_drop.unwrap_or(MAX_DROP * width).max(chance);
            let message = format!("{mean:.4} of {n} after {mean_before:.4} of {m} in {}", other.what);
            return (Some(mean_before - mean), Some(limit), None, message);
        }
        let [a, b] = [&now, &before].map(|scores| Histogram::of(scores.iter().copied(), &self.scale));
        let Some(drift) = Drift::between(&a, &b) else { return nothing("no scores".to_owned()) };
        let (value, limit) = match settings.of {
            Of::Psi => (drift.psi, max.unwrap_or(MAX_PSI).max(drift.psi_null_p99)),
            Of::Ks => (drift.ks_d, max.unwrap_or(MAX_KS).max(drift.ks_null_p99)),
            _ => (drift.w1, max.unwrap_or(MAX_DROP * width)),
        };
        (Some(value), Some(limit), None, format!("{n} scores against {m} of {}", other.what))
    }
}
