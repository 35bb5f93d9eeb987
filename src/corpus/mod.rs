//! The nights of a corpus: what lies in some sources becomes a table of images, night by night.
//!
//! Inputs: sources ([`agiqa_sources`]) and the corpus' `inventory`. Outputs: new rows of `inventory`, the night's `images`
//! (dataset `CORPUS.NIGHT`, without MOS) and `rejects` of stage `corpus`. A file that the inventory knows by address and
//! version is not opened. [`NightScoresStage`] joins the night with its scores into `night_scores` and `nights`.
//!
//! Files are taken up block by block, so that memory holds some blocks, and the hashes of the addresses and contents of the corpus.

use agiqa_store::store::StoreError;
use agiqa_store::store::part::PartError;
use agiqa_store::tables::night_scores::ScoredNight;
use agiqa_store::tables::{PartitionName, PartitionNameError, images};

mod known;

mod rows;

mod intake;

mod stage;

pub use stage::{CorpusSettings, CorpusStage, Existing};

mod scores;

pub use scores::{NightScorer, NightScoresStage};

/// One night of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Night {
    /// The corpus.
    pub corpus: PartitionName,
    /// The night's label, such as its date. Labels are in the order of their text.
    pub night: PartitionName,
}

impl Night {
    /// The dataset that the night is.
    ///
    /// # Errors
    /// The corpus' name has a dot, or the names are too long.
    pub fn dataset(&self) -> Result<PartitionName, CorpusError> {
        if self.corpus.as_str().contains('.') {
            return Err(CorpusError::Dot(self.corpus.clone()));
        }
        Ok(images::night_dataset(&self.corpus, &self.night)?)
    }

    /// The night in the tables of what `scorer` has scored.
    pub fn scored_by(&self, scorer: &PartitionName) -> ScoredNight {
        let Self { corpus, night } = self.clone();
        ScoredNight { scorer: scorer.clone(), corpus, night }
    }
}

/// A night that cannot be taken up.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum CorpusError {
    /// The name of a dataset could not be taken apart again.
    #[error("a corpus cannot be named `{0}`: leave dots out, because a night is the dataset `CORPUS.NIGHT`")]
    Dot(PartitionName),
    /// A name is too long.
    #[error(transparent)]
    Name(#[from] PartitionNameError),
    /// A dataset has the night's name.
    #[error("`{0}` is an ingested dataset: give the corpus or the night another name")]
    Ingested(PartitionName),
    /// A source cannot serve.
    #[error(transparent)]
    Source(#[from] agiqa_sources::SourceError),
    /// A source holds no image.
    #[error("source `{path}` holds no image{left_out}")]
    NoImage { path: String, left_out: String },
    /// A share of a night cannot replace it.
    #[error("`--replace` does a whole night again: leave `--shard` out")]
    ReplacedShare,
    /// A table cannot be read or written.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}
