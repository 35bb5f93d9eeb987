//! The stages of a pipeline, their order, and the plan of the stages to run.

use std::fmt;

use super::absent::{self, LeftOut};
use agiqa_store::stage::{Freshness, Stage, StageError};
use agiqa_store::store::Store;

/// Names of the stages, which are the names of their commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// Turns MOS tables and images into `images`.
    Ingest,
    /// Turns images into `semantic` and `quality`.
    Features,
    /// Turns images into `scores` by handcrafted methods.
    Baseline,
    /// Turns images into `scores` by published networks.
    Score,
    /// Turns images into `splits`.
    Split,
    /// Turns features and splits into models, and applies trained networks to the dataset.
    Train,
    /// Turns models and features into `scores` and `gates`.
    Predict,
    /// Turns predictions into `metrics`.
    Evaluate,
    /// Turns all scores of a dataset into `comparison`.
    Compare,
    /// Turns metrics of variants into `experiments`.
    Experiment,
    /// Turns the tables about runs into a page.
    Report,
}

impl StageName {
    /// Every stage, in the order of the data.
    pub const ALL: &[Self] = &[
        Self::Ingest,
        Self::Features,
        Self::Baseline,
        Self::Score,
        Self::Split,
        Self::Train,
        Self::Predict,
        Self::Evaluate,
        Self::Compare,
        Self::Experiment,
        Self::Report,
    ];

    /// The stage's name in text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Features => "features",
            Self::Baseline => "baseline",
            Self::Score => "score",
            Self::Split => "split",
            Self::Train => "train",
            Self::Predict => "predict",
            Self::Evaluate => "evaluate",
            Self::Compare => "compare",
            Self::Experiment => "experiment",
            Self::Report => "report",
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
    /// Name of the stage.
    pub name: StageName,
    /// The stage with its settings.
    pub stage: Box<dyn Stage>,
    /// Positions of the steps whose outputs it reads.
    pub after: Vec<usize>,
    /// The method of the paper's Table 1, or the variant, whose scores this step makes, if they are one's.
    pub method: Option<String>,
}

/// Planned action for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Skip the step, for this reason.
    Skip(String),
    /// Run the step, for this reason.
    Run(String),
    /// Decide after the stages of these names, at least one, have run, because it depends on their output.
    After(Vec<String>),
    /// The step's inputs are missing or broken. The plan's error says why.
    Blocked,
}

/// A stage that could not tell whether it is up to date.
#[derive(Debug, thiserror::Error)]
#[error("cannot plan stage `{stage}`")]
pub struct PlanError {
    stage: String,
    source: StageError,
}

/// Plans `steps` on the current `store`. Changes nothing. Also returns the error of the first stage whose inputs are
/// missing or broken: a plan is useful even if some of its steps cannot run yet. With `skip_absent_weights`, steps whose
/// weights are absent are left out, with those that need their results.
pub fn plan(steps: &[Step], store: &Store, skip_absent_weights: bool) -> (Vec<Action>, Option<PlanError>) {
    let mut actions: Vec<Action> = Vec::with_capacity(steps.len());
    let (mut first_error, mut left_out) = (None, Vec::new());
    for (idx, step) in steps.iter().enumerate() {
        if let Some(reason) = absent::consequence(steps, idx, &left_out) {
            actions.push(Action::Skip(format!("left out: {reason}")));
            left_out.push(LeftOut { step: idx, reason });
            continue;
        }
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
                Err(source) => match absent::absence(source.as_ref()).filter(|_| skip_absent_weights) {
                    Some(reason) => {
                        left_out.push(LeftOut { step: idx, reason: reason.clone() });
                        Action::Skip(format!("left out: {reason}"))
                    }
                    None => {
                        first_error.get_or_insert(PlanError { stage: step.stage.name(), source });
                        Action::Blocked
                    }
                },
            }
        } else {
            Action::After(pending)
        });
    }
    (actions, first_error)
}

/// The steps of the stages in `only`; all steps if `only` is empty. A step that is left out counts as up to date.
pub fn select(steps: Vec<Step>, only: &[StageName]) -> Vec<Step> {
    if only.is_empty() {
        return steps;
    }
    let mut new_idx = Vec::with_capacity(steps.len());
    let mut selected: Vec<Step> = Vec::new();
    for mut step in steps {
        let is_selected = only.contains(&step.name);
        new_idx.push(is_selected.then_some(selected.len()));
        if is_selected {
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
        Step { name, stage: Box::new(Fixed(label, current)), after: after.to_vec(), method: None }
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
        let (actions, error) = plan(&steps, &store, false);
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
