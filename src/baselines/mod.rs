//! The stage that scores images by the handcrafted methods of [`agiqa_handcrafted`], guests of the engine.
//!
//! Output: `scores`, a row per image, method and settings, and `rejects` of stage `baseline`. A row of the stage is a
//! pair of image file and method, so an image may be scored by one method and rejected by another.

mod guest;

mod settings;

pub use settings::{BaselineError, BaselineSettings};

/// Scores the images of one source by some methods, if the store lacks a score.
pub type BaselineStage = crate::engine::ImageStage<BaselineSettings>;
