//! `check`: whether the images of a dataset and their scores are as good as they should be, from the tables alone.
//!
//! Reads `images`, `scores`, `rejects`, and the scores of another dataset or of the run's test part to compare with. A
//! difference counts only if it exceeds its limit and what chance alone explains. A check without anything to compare
//! with passes and says so.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::scorer::{self, ScoredImages, Scorer, ScorerError, Scores};
use agiqa_store::store::Store;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::checks::{self, CheckRow};
use agiqa_store::tables::models::Runs;
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::splits::Part;

pub mod drift;

mod rejected;

use drift::{Drift, Histogram};

pub use rejected::{Counts, Rejected};

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
pub(crate) const MIN_N: usize = 100;

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

    /// Name of the check, as in settings.
    pub fn name(&self) -> String {
        serde_json::to_value(self.check).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
    }
}

/// Replaces the checks of `night` in the table `checks`.
///
/// # Errors
/// Fails if the store does.
pub fn write(store: &Store, night: &ScoredNight, found: &[Checked]) -> Result<(), PartError> {
    let names: Vec<String> = found.iter().map(Checked::name).collect();
    let rows = found.iter().zip(&names).map(|(checked, check)| CheckRow {
        check,
        scope: &checked.scope,
        value: checked.value,
        limit: checked.limit,
        has_passed: checked.passed,
        severity: match checked.severity {
            Severity::Fail => "fail",
            Severity::Warn => "warn",
        },
        message: &checked.message,
    });
    checks::write(store, night, &rows.collect::<Vec<_>>())
}

/// Scores, and the name of the dataset or night that they belong to.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The name of the dataset or night, in words.
    pub what: &'a str,
    /// The scores.
    pub scored: &'a ScoredImages,
}

impl Compared<'_> {
    fn scores(&self) -> Vec<f64> {
        self.scored.all_scores().collect()
    }

    /// The scores of the images with each value of `column`. A value may have no score.
    fn scores_by(&self, column: &str) -> BTreeMap<String, Vec<f64>> {
        let values = self.scored.images.column_text(column).unwrap_or_default();
        let mut groups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for &row in &self.scored.rows {
            if let Some(Some(value)) = values.get(row) {
                match groups.get_mut(value) {
                    Some(scores) => scores.extend(self.scored.score(row)),
                    None => _ = groups.insert(value.clone(), self.scored.score(row).into_iter().collect()),
                }
            }
        }
        groups
    }
}

/// What checks look at. It was read before, because a page needs the same.
#[derive(Clone, Debug)]
pub struct Checking<'a> {
    /// The scores to check.
    pub now: &'a ScoredImages,
    /// Counts of their images.
    pub counts: Counts,
    /// Earlier scores.
    pub previous: Option<Compared<'a>>,
    /// The scores of the test part that the run was judged on.
    pub test: Option<&'a ScoredImages>,
    /// Where the bins are; `None` if the scores at hand decide.
    pub scale: Option<RangeInclusive<f64>>,
}

/// The images of `dataset` with their scores, and their counts. Images without any score are an error, unless there are rejects
/// that say why.
///
/// # Errors
/// Fails if the dataset does not exist, if nothing says why no image has a score, or if a table cannot be read.
pub fn read(
    store: &Store,
    dataset: &PartitionName,
    scores: &Arc<Scores>,
    rejected: &Rejected,
) -> Result<(ScoredImages, Counts), ScorerError> {
    let scored = ScoredImages::of_all(store, dataset, scores.clone())?;
    let ids = scored.images.rows.iter().map(|row| row.image_id);
    let counts = rejected.counts(dataset, ids, |id| scores.of_image.contains_key(id));
    if counts.n_images == 0.0 {
        return Err(scorer::no_dataset(store, dataset)?);
    }
    if counts.n_rejected == 0.0 && counts.n_images == counts.n_unscored {
        return Err(ScorerError::NoScores { scorer: scores.scorer.clone(), dataset: dataset.clone() });
    }
    Ok((scored, counts))
}

/// Images and scores of the test part that the run behind `scorer` was judged on, if one of `checks` compares with it.
///
/// # Errors
/// Fails if a table cannot be read.
pub fn test_part(
    store: &Store,
    scores: &Arc<Scores>,
    scorer: &Scorer,
    records: &Runs,
    checks: &[CheckSettings],
) -> Result<Option<ScoredImages>, ScorerError> {
    let run = match scorer {
        _ if checks.iter().all(|check| check.against != Against::Test) => None,
        Scorer::Run(run) => Some(run.clone()),
        Scorer::Group(group) => records.of_group(store, group)?.into_iter().next(),
        Scorer::Method(_) => None,
    };
    let Some(run) = run else { return Ok(None) };
    let record = records.get(store, &run)?;
    let part = (record.split.clone(), Part::Test);
    Ok(Some(ScoredImages::of(store, &record.dataset, Some(&part), scores.clone())?))
}

/// The range of all `scores` but the lowest and the highest hundredth: a method has outliers that would stretch a scale. It is
/// the scale where the scorer has learned from no MOS.
pub fn middle(mut scores: Vec<f64>) -> RangeInclusive<f64> {
    scores.sort_by(f64::total_cmp);
    let at = |place: usize| scores.get(place).copied().unwrap_or(0.0);
    at(scores.len() / 100)..=at(scores.len().saturating_sub(1 + scores.len() / 100))
}

/// Number, mean and variance (n − 1) of scores.
pub(crate) fn moments(scores: &[f64]) -> (f64, f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let variance = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (n, mean, variance)
}

/// Scores of one scope, now and before.
struct Scope {
    name: String,
    now: Vec<f64>,
    before: Vec<f64>,
}

impl Checking<'_> {
    /// Where the bins are. Without anything that says so, they lie over the scores at hand.
    pub fn scale(&self) -> RangeInclusive<f64> {
        let known = self.scale.clone().or_else(|| self.now.scores.scale.clone());
        let at_hand = || self.previous.into_iter().chain(self.test()).chain([self.now_compared()]);
        known.unwrap_or_else(|| middle(at_hand().flat_map(|compared| compared.scores()).collect()))
    }

    fn test(&self) -> Option<Compared<'_>> {
        self.test.map(|scored| Compared { what: "the run's test part", scored })
    }

    /// Runs `checks`.
    pub fn run(&self, checks: &[CheckSettings]) -> Vec<Checked> {
        let (test, scale) = (self.test(), self.scale());
        let mut found = Vec::new();
        for settings in checks {
            let other = match settings.against {
                Against::Previous => self.previous,
                Against::Test => test,
            };
            self.run_one(settings, other, &scale, &mut found);
        }
        found
    }

    fn now_compared(&self) -> Compared<'_> {
        Compared { what: "", scored: self.now }
    }

    fn run_one(
        &self,
        settings: &CheckSettings,
        other: Option<Compared<'_>>,
        scale: &RangeInclusive<f64>,
        found: &mut Vec<Checked>,
    ) {
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
                for scope in self.scopes(&settings.scope, other) {
                    let (value, max, min, message) = scope.check(settings, other.map(|other| other.what), scale);
                    add(&scope.name, value, max, min, message);
                }
            }
        }
    }

    /// The scopes that `scope` of the settings means. Each value of a column has one.
    fn scopes(&self, scope: &str, other: Option<Compared<'_>>) -> Vec<Scope> {
        let now = self.now_compared();
        let Some((column, value)) = scope.split_once('=') else {
            let before = other.map(|other| other.scores()).unwrap_or_default();
            return vec![Scope { name: scope.to_owned(), now: now.scores(), before }];
        };
        let mut before = other.map(|other| other.scores_by(column)).unwrap_or_default();
        let mut now = now.scores_by(column);
        if value != "*" {
            now = BTreeMap::from([(value.to_owned(), now.remove(value).unwrap_or_default())]);
        }
        let scope = |(value, now): (String, Vec<f64>)| {
            let before = before.remove(&value).unwrap_or_default();
            Scope { name: format!("{column}={value}"), now, before }
        };
        now.into_iter().map(scope).collect()
    }
}

impl Scope {
    /// Value, limits and message of a check of scores. `other` names the dataset or night of the earlier scores.
    fn check(
        &self,
        settings: &CheckSettings,
        other: Option<&str>,
        scale: &RangeInclusive<f64>,
    ) -> (Option<f64>, Option<f64>, Option<f64>, String) {
        let width = scale.end() - scale.start();
        let (n, mean, variance) = moments(&self.now);
        let CheckSettings { max, min, max_drop, .. } = *settings;
        match settings.of {
            Of::ScoreStd => {
                let value = Some(variance.sqrt()).filter(|value| value.is_finite());
                // Where all scores are one number, the scale of a method's scores at hand has no width either.
                let least = (MIN_STD * width).max(1e-6 * mean.abs()).max(f64::MIN_POSITIVE);
                let message = if n > 0.0 { format!("{n} scores, mean {mean:.4}") } else { "no scores".to_owned() };
                return (value, max, min.or(Some(least)), message);
            }
            // Limits of the mean itself need no comparison.
            Of::Mean if max.or(min).is_some() => {
                return (Some(mean).filter(|mean| mean.is_finite()), max, min, format!("{n} scores"));
            }
            _ => {}
        }
        let nothing = |why: String| (None, Some(max.or(max_drop).unwrap_or(0.0)), None, why);
        let Some(other) = other else { return nothing("nothing to compare with: passes".to_owned()) };
        let (m, mean_before, variance_before) = moments(&self.before);
        let min_n = settings.min_n.unwrap_or(MIN_N);
        if self.now.len().min(self.before.len()) < min_n.max(2) {
            return nothing(format!("too few to compare: {n} against {m} scores, fewer than {min_n}"));
        }
        if settings.of == Of::Mean {
            // Welch's standard error: what chance alone explains in 99 of 100 cases is no drop.
            let chance = 2.33 * (variance / n + variance_before / m).sqrt();
            let limit = max_drop.unwrap_or(MAX_DROP * width).max(chance);
            let message = format!("{mean:.4} of {n} after {mean_before:.4} of {m} in {other}");
            return (Some(mean_before - mean), Some(limit), None, message);
        }
        let [a, b] = [&self.now, &self.before].map(|scores| Histogram::of(scores.iter().copied(), scale));
        let Some(drift) = Drift::between(&a, &b) else { return nothing("no scores".to_owned()) };
        let (value, limit) = match settings.of {
            Of::Psi => (drift.psi, max.unwrap_or(MAX_PSI).max(drift.psi_null_p99)),
            Of::Ks => (drift.ks_d, max.unwrap_or(MAX_KS).max(drift.ks_null_p99)),
            _ => (drift.w1, max.unwrap_or(MAX_DROP * width)),
        };
        (Some(value), Some(limit), None, format!("{n} scores against {m} of {other}"))
    }
}
