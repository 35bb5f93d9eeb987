//! The engine that turns images into rows. It serves every extractor and every method that looks at one image at a
//! time.
//!
//! Input: the `images` table of a dataset or of a corpus' night, or a bare folder of images ([`ImageSource`]). Output: the rows that a guest
//! declares ([`Output`]: vectors, or scores with their direction) and `rejects` of the guest's stage. For a bare folder
//! the engine also writes an `images` table, so that its images can be scored. It computes exactly the rows that the
//! store lacks.
//!
//! ```text
//! images ─ plan ─► decode + prepare (threads) ─► network (calling thread, fixed batches) ─► parts (one thread)
//!                  decode + compute (threads) ─────────────────────────────────────────┘
//! ```
//!
//! A [`Guest`] is a set of checked settings. It declares its outputs before any weights are read, and then loads either
//! a [`Network`], which runs on batches, or a [`PerImage`], which any thread may call. The engine does the rest:
//! resuming, shards, rejects, interrupts, progress, and parts that appear only when complete.

mod guest;

pub use guest::{
    Batch, Guest, GuestError, GuestSettings, GuestWords, Input, InputSize, Loaded, MAX_BATCH_SIZE, MAX_PART_ROWS,
    Network, Output, OutputRows, PerImage, Preprocessor, Score, Task, Unusable, Values, Work,
};

mod left_out;

pub use left_out::LeftOutFiles;

mod source;

pub use source::{FolderError, ImageSource, is_of_share};

mod decode;

pub use decode::{Failure, decode_verified};

mod plan;

mod writer;

mod run;

mod stage;

pub use stage::{EngineError, ImageStage};

#[cfg(test)]
mod tests;
