//! Options of the commands that go through images one by one: `embed`, `extract` and `baseline`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::engine::ImageSource;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::PartitionName;

/// Which images, and how the work on them is cut up; what is not given is the stage's default.
#[derive(clap::Args)]
pub(super) struct ImageArgs {
    /// Store to write to: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    pub(super) store: String,
    /// Ingested dataset whose images to use; with `--images`, the name of the corpus that the folder becomes (default:
    /// the folder's own name).
    #[arg(long, value_name = "NAME", required_unless_present = "images")]
    dataset: Option<PartitionName>,
    /// Folder of images to use instead of an ingested dataset; no MOS needed.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Reject images with more pixels than this before decoding them.
    #[arg(long, value_name = "N")]
    pub(super) max_pixels: Option<u64>,
    /// Compute just this share of the images, for several machines on one store: `k/N`.
    #[arg(long, value_name = "K/N", default_value_t = Shard::WHOLE)]
    pub(super) shard: Shard,
    /// Try images again that an earlier run rejected.
    #[arg(long)]
    pub(super) retry_rejects: bool,
    /// Rows at which a part is written.
    #[arg(long, value_name = "N")]
    pub(super) part_rows: Option<NonZeroUsize>,
    /// Seconds after which a part is written even when it has fewer rows.
    #[arg(long, value_name = "SECS")]
    pub(super) part_secs: Option<u64>,
}

impl ImageArgs {
    /// The images that `--images` and `--dataset` name together.
    pub(super) fn source(self) -> anyhow::Result<ImageSource> {
        match (self.images, self.dataset) {
            (Some(folder), dataset) => Ok(ImageSource::Folder { folder, dataset }),
            (None, Some(dataset)) => Ok(ImageSource::Dataset(dataset)),
            (None, None) => anyhow::bail!("nothing to do: give `--dataset NAME` or `--images DIR`"),
        }
    }
}
