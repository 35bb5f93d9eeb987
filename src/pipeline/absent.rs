//! Steps without weights. A pipeline may go on without them, and then without the steps that need their results.

use std::error::Error;

use super::plan::{StageName, Step};
use crate::baselines::BaselineError;
use crate::engine::EngineError;
use crate::features::ExtractError;
use crate::ratings::RatingError;
use crate::train::TrainError;
use agiqa_handcrafted::ParamsError;
use agiqa_judge::compare::CompareError;
use agiqa_nets::raters::StartError;
use agiqa_store::stage::{ExecuteError, Freshness, Stage, StageContext, StageError, StageReport};
use agiqa_store::store::Store;
use agiqa_weights::WeightsError;

/// A step that was left out.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Position of the step.
    pub step: usize,
    /// Why, and what to do.
    pub reason: String,
}

/// A training without the weights that it starts from. Its runs have no names, because these depend on the weights.
pub struct AbsentTraining {
    /// The row of the paper's Table 1 that its scores would have, or else its variant.
    pub method: String,
    /// The name of the stage.
    pub name: String,
    /// Why, and what to do.
    pub reason: String,
}

/// The error of such a training.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoStart(String);

impl Stage for AbsentTraining {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn freshness(&self, _store: &Store) -> Result<Freshness, StageError> {
        Err(NoStart(self.reason.clone()).into())
    }

    fn run(&self, _context: &StageContext) -> Result<StageReport, StageError> {
        Err(NoStart(self.reason.clone()).into())
    }
}

/// The message of the absence of weights or parameter files that caused `error`, if one did. A comparison without any
/// method counts as one.
pub fn absence(error: &(dyn Error + 'static)) -> Option<String> {
    let is_absence = match error.downcast_ref() {
        Some(WeightsError::Absent { .. } | WeightsError::Incomplete { .. }) => true,
        _ => {
            matches!(error.downcast_ref(), Some(RatingError::Absent { .. }))
                || matches!(error.downcast_ref(), Some(StartError::Absent { .. }))
                || error.is::<NoStart>()
                || matches!(error.downcast_ref(), Some(ParamsError::Missing { .. }))
                || matches!(error.downcast_ref(), Some(CompareError::NoMethods { .. }))
        }
    };
    if is_absence {
        return Some(error.to_string().replace("\nhint: ", "; "));
    }
    // An error that only wraps another one gives the other's cause as its own.
    let wrapped: Option<&(dyn Error + 'static)> = if let Some(ExecuteError::Freshness(inner)) = error.downcast_ref() {
        Some(inner.as_ref())
    } else if let Some(EngineError::Guest(inner)) = error.downcast_ref() {
        Some(inner.as_ref())
    } else if let Some(BaselineError::Params(inner)) = error.downcast_ref() {
        Some(inner)
    } else if let Some(ExtractError::Weights(inner)) = error.downcast_ref() {
        Some(inner)
    } else if let Some(StartError::Fetched(inner)) = error.downcast_ref() {
        Some(inner)
    } else if let Some(TrainError::Recipe(inner)) = error.downcast_ref() {
        Some(inner.as_ref())
    } else {
        error.source()
    };
    absence(wrapped?)
}

/// Why the step `idx` cannot work without the steps that were left out before it, if it cannot.
pub fn consequence(steps: &[Step], idx: usize, left_out: &[LeftOut]) -> Option<String> {
    let needs = |before: StageName| match steps[idx].name {
        StageName::Features => before == StageName::Features,
        StageName::Train => matches!(before, StageName::Features | StageName::Train),
        StageName::Predict => matches!(before, StageName::Train | StageName::Predict),
        // A rating network has scored the images when it was applied, in a step of the training.
        StageName::Evaluate => matches!(before, StageName::Train | StageName::Predict),
        StageName::Experiment => before == StageName::Evaluate,
        StageName::Report => matches!(before, StageName::Train | StageName::Predict),
        _ => false,
    };
    let before = left_out.iter().find(|left| steps[idx].after.contains(&left.step) && needs(steps[left.step].name))?;
    Some(before.reason.clone())
}
