//! `predict`: scores every image of some datasets with the heads of finished runs.
//!
//! Inputs: runs (`run.json`, `head.safetensors`), `images`, and the feature sets that the runs were trained on. Output: rows
//! of `scores` and `gates`, one per run and image content. An image without features is a reject. Which datasets an image
//! belongs to does not matter to its score: the stage computes exactly the images that the run's set of scores lacks.

mod plan;

mod stage;

pub use stage::{PredictError, PredictStage};
