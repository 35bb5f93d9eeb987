//! `predict`: scores every image of some datasets with the heads of finished runs.
//!
//! Inputs: runs (`run.json`, `head.safetensors`), `images`, and the feature sets that the runs were trained on. Output:
//! rows of `scores` and `gates`, one per run and image content. An image without features is a reject. A score does not
//! depend on the dataset of its image. The stage therefore computes exactly the images that are missing in the run's
//! set of scores. [`AverageStage`] averages the scores of several runs. [`StraightStage`] scores images without keeping
//! their features.

mod plan;

mod head;

mod stage;

mod average;

mod straight;

mod together;

pub use straight::{StraightError, StraightSettings, StraightStage};

pub use average::{AverageStage, Weighting, members_of};

pub use stage::{PredictError, PredictStage, Unready};
