//! `predict`: scores every image of some datasets with the heads of finished runs.
//!
//! Inputs: runs (`run.json`, `head.safetensors`), `images`, and the feature sets that the runs were trained on. Output: one
//! `predictions` table per run, one row per image with features; an image without them is a reject. An image's part is
//! that of the run's split, and null in datasets that the run was not trained on.

mod stage;

pub use stage::{PredictError, PredictStage};
