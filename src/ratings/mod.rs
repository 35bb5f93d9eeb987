//! The stage that scores images by published networks that rate an image, guests of the engine.
//!
//! Output: `scores`, a row per image, network and settings, and `rejects` of stage `score`.

mod guest;

mod settings;

pub use settings::{RatingError, RatingOptions, RatingSettings, TrainedRater};

/// Rates the images of one source by one network, if the store lacks a rating.
pub type RatingStage = crate::engine::ImageStage<RatingSettings>;
