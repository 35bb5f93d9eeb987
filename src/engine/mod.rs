//! The engine that turns images into rows. It serves every extractor and every method that looks at one image at a
//! time.
//!
//! Input: the `images` table of a dataset or of a corpus' night, or a bare folder of images ([`ImageSource`]). Output: the rows that a guest
//! declares ([`Output`]: vectors, or scores with their direction) and `rejects` of the guest's stage. For a bare folder
//! the engine also writes an `images` table, so that its images can be scored. It computes exactly the rows that the
//! store lacks.
//!
//! ```text
//! images ─ plan ─► decode + prepare (threads) ─► queue ─► batches ─► network ─► fetch ─► parts (one thread)
//!                  decode + compute (threads) ─────────────────────────────────────────┘
//! ```
//!
//! The calling thread collects inputs into batches of one size, launches them and fetches their rows. On a GPU it
//! fetches a batch after it has launched the next one, so that the device always has work. On a CPU a launch computes.
//! Inputs are 8-bit pictures where a network's device normalises them: a quarter of the bytes to collect and copy.
//!
//! A [`Guest`] is a set of checked settings. It declares its outputs before any weights are read, and then loads either
//! a [`Network`], which runs on batches, or a [`PerImage`], which any thread may call. The engine does the rest:
//! resuming, shards, rejects, interrupts, progress, and parts that appear only when complete.

mod guest;

pub use guest::{
    Batch, BatchSize, Frame, Guest, GuestError, GuestSettings, GuestWords, Input, InputSize, Launched, Loaded,
    MAX_BATCH_SIZE, MAX_PART_ROWS, Network, Output, OutputRows, PerImage, Preprocessor, Score, Task, Unusable, Values,
    Work,
};

mod left_out;

pub use left_out::LeftOutFiles;

mod source;

pub use source::{FolderError, ImageSource, is_of_share};

mod decode;

pub use decode::{Failure, decode_verified};

mod plan;

mod writer;

mod queue;

mod memory;

pub use memory::is_allocation_failure;

mod batches;

mod run;

mod stage;

pub use stage::{EngineError, ImageStage};

#[cfg(test)]
mod tests;
