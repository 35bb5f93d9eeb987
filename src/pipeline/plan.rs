//! Which stages a pipeline has, in what order, and which of them have something to do.

use std::fmt;

use agiqa_store::stage::{Freshness, Stage, StageError};
use agiqa_store::store::Store;

/// The stages there are, by the names of their commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// MOS tables and images into `images`.
    Ingest,
    /// Images into `semantic` and `quality`: what `embed` and `extract` do.
    Features,
    /// Images into `baselines`.
    Baseline,
    /// Images into `splits`.
    Split,
    /// Features and splits into models, and what a trained network is to compute.
    Train,
    /// Models and features into `predictions`.
    Predict,
    /// Predictions into `metrics`.
    Evaluate,
    /// All scores of a dataset into `comparison`.
    Compare,
    /// Metrics of variants into `experiments`.
    Experiment,
}

impl StageName {
    /// Every stage, in the order of the data.
    pub const ALL: &[Self] = &[
        Self::Ingest,
        Self::Features,
        Self::Baseline,
        Self::Split,
        Self::Train,
        Self::Predict,
        Self::Evaluate,
        Self::Compare,
        Self::Experiment,
    ];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Features => "features",
            Self::Baseline => "baseline",
            Self::Split => "split",
            Self::Train => "train",
            Self::Predict => "predict",
            Self::Evaluate => "evaluate",
            Self::Compare => "compare",
            Self::Experiment => "experiment",
        }
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for StageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::ALL.iter().map(|stage| stage.as_str()).collect();
        let found = Self::ALL.iter().copied().find(|stage| stage.as_str() == text);
        found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
    }
}

/// One stage of a pipeline.
pub struct Step {
    /// Which stage it is.
    pub name: StageName,
    /// The stage with its settings.
    pub stage: Box<dyn Stage>,
    /// Positions of the steps whose outputs it reads.
    pub after: Vec<usize>,
}

/// What is to be done about one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, for this reason.
    Skip(String),
    /// Run it, for this reason.
    Run(String),
    /// Seen when the stages of these names, at least one, have run: what they write decides.
    After(Vec<String>),
    /// Its inputs are missing or broken, as the error beside the plan says.
    Blocked,
}

/// A stage that could not tell whether it is up to date.
#[derive(Debug, thiserror::Error)]
#[error("cannot plan stage `{stage}`")]
pub struct PlanError {
    stage: String,
    source: StageError,
}

/// What `steps` would do on `store` as it is; changes nothing. Beside it the first stage whose inputs are missing or
/// broken: a plan says what there is to do even where not all of it can be done yet.
pub fn plan(steps: &[Step], store: &Store) -> (Vec<Action>, Option<PlanError>) {
    let mut actions: Vec<Action> = Vec::with_capacity(steps.len());
    let mut first_error = None;
    for step in steps {
        let pending: Vec<String> = step
            .after
            .iter()
            .filter(|idx| !matches!(actions[**idx], Action::Skip(_)))
            .map(|idx| steps[*idx].stage.name())
            .collect();
        actions.push(if pending.is_empty() {
            match step.stage.freshness(store) {
                Ok(Freshness::Current { reason, .. }) => Action::Skip(reason),
                Ok(Freshness::Stale { reason }) => Action::Run(reason),
                Err(source) => {
                    first_error.get_or_insert(PlanError { stage: step.stage.name(), source });
                    Action::Blocked
                }
            }
        } else {
            Action::After(pending)
        });
    }
    (actions, first_error)
}

/// The steps of the stages in `only`; all where that is empty. A step that is left out counts as up to date.
pub fn select(steps: Vec<Step>, only: &[StageName]) -> Vec<Step> {
    if only.is_empty() {
        return steps;
    }
    let mut new_idx = Vec::with_capacity(steps.len());
    let mut selected: Vec<Step> = Vec::new();
    for mut step in steps {
        let wanted = only.contains(&step.name);
        new_idx.push(wanted.then_some(selected.len()));
        if wanted {
            step.after = step.after.iter().filter_map(|idx| new_idx[*idx]).collect();
            selected.push(step);
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use super::*;
    use agiqa_store::stage::{StageContext, StageReport};
    use agiqa_store::store::OpenMode;

    struct Fixed(&'static str, bool);

    impl Stage for Fixed {
        fn name(&self) -> String {
            self.0.to_owned()
        }

        fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
            let reason = format!("{} says so", self.0);
            let rows = agiqa_store::store::run_log::RowCounts::default();
            Ok(if self.1 { Freshness::Current { reason, rows } } else { Freshness::Stale { reason } })
        }

        fn run(&self, _context: &StageContext) -> Result<StageReport, StageError> {
            Ok(StageReport::default())
        }
    }

    fn step(name: StageName, label: &'static str, current: bool, after: &[usize]) -> Step {
        Step { name, stage: Box::new(Fixed(label, current)), after: after.to_vec() }
    }

    #[test]
    fn a_stage_is_judged_only_when_everything_before_it_is_up_to_date() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().display().to_string(), OpenMode::Existing).expect("it exists");
        let steps = vec![
            step(StageName::Ingest, "a", true, &[]),
            step(StageName::Ingest, "b", false, &[]),
            step(StageName::Features, "of a", true, &[0]),
            step(StageName::Train, "of both", true, &[1, 2]),
        ];
        let expected = [
            Action::Skip("a says so".to_owned()),
            Action::Run("b says so".to_owned()),
            Action::Skip("of a says so".to_owned()),
            Action::After(vec!["b".to_owned()]),
        ];
        let (actions, error) = plan(&steps, &store);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(actions, expected);
    }

    #[test]
    fn leaving_stages_out_keeps_the_order_of_the_rest() {
        let steps = vec![
            step(StageName::Ingest, "a", true, &[]),
            step(StageName::Features, "b", true, &[0]),
            step(StageName::Split, "c", true, &[0]),
            step(StageName::Train, "d", true, &[1, 2]),
        ];
        let selected = select(steps, &[StageName::Split, StageName::Train]);
        let after: Vec<&[usize]> = selected.iter().map(|step| step.after.as_slice()).collect();
        assert_eq!(after, [&[][..], &[0][..]]);
    }
}
