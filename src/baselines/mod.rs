//! The stage that scores images by the handcrafted methods of [`agiqa_handcrafted`].
//!
//! Input is the `images` table of a dataset, or a bare folder of images, which becomes the table of a corpus.
//! Output: `baselines`, a row per image, method and settings, and `rejects` of stage `baseline`. A row of the stage is a
//! pair of image file and method, so an image may be scored by one method and rejected by another.

mod plan;

mod settings;

mod stage;

pub use settings::{BaselineError, BaselineSettings};
pub use stage::BaselineStage;
