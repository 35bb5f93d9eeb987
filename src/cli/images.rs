//! Options of the commands that process images one by one: `features`, `baseline` and `score`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::path_argument;
use super::set::SetArgs;
use crate::baselines::{BaselineSettings, BaselineStage};
use crate::engine::ImageSource;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::PartitionName;

/// The images, and the division of the work on them. An absent option takes the stage's default.
#[derive(clap::Args)]
pub(super) struct ImageArgs {
    /// Store to write to: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL", value_parser = path_argument())]
    pub(super) store: String,
    /// Ingested dataset whose images to use. With `--images`, it is the name of the corpus that the folder becomes
    /// (default: the folder's own name).
    #[arg(long, value_name = "NAME")]
    dataset: Option<PartitionName>,
    /// Folder of images to use instead of an ingested dataset. It needs no MOS.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Reject images with more pixels than this before decoding them.
    #[arg(long, value_name = "N")]
    pub(super) max_pixels: Option<u64>,
    /// Compute only this share of the images, for several machines on one store: `k/N`.
    #[arg(long, value_name = "K/N", default_value_t = Shard::WHOLE)]
    pub(super) shard: Shard,
    /// Try images again that an earlier run rejected.
    #[arg(long)]
    pub(super) retry_rejects: bool,
    /// Number of rows at which a part is written.
    #[arg(long, value_name = "N")]
    pub(super) part_rows: Option<NonZeroUsize>,
    /// Seconds after which a part is written even if it has fewer rows.
    #[arg(long, value_name = "SECS")]
    pub(super) part_secs: Option<u64>,
}

impl ImageArgs {
    /// The options among the settings that every network takes.
    pub(super) fn options(&self) -> Value {
        json!({
            "max_pixels": self.max_pixels,
            "shard": self.shard,
            "retry_rejects": self.retry_rejects,
            "part_rows": self.part_rows,
            "part_secs": self.part_secs,
        })
    }

    /// The stage of handcrafted methods with the settings `given`, these options, and those in `set`.
    ///
    /// # Errors
    /// Neither a dataset nor a folder is given, or the settings make no sense.
    pub(super) fn baseline(&self, given: BaselineSettings, set: &SetArgs) -> anyhow::Result<BaselineStage> {
        let settings = BaselineSettings {
            max_pixels: self.max_pixels.unwrap_or(given.max_pixels),
            shard: self.shard,
            retry_rejects: self.retry_rejects,
            part_rows: self.part_rows.unwrap_or(given.part_rows),
            part_secs: self.part_secs.unwrap_or(given.part_secs),
            ..given
        };
        let settings = set.over(settings)?;
        settings.check()?;
        Ok(BaselineStage::new(settings, self.source()?))
    }

    /// The source of images from `--images` and `--dataset`.
    pub(super) fn source(&self) -> anyhow::Result<ImageSource> {
        match (self.images.clone(), self.dataset.clone()) {
            (Some(folder), dataset) => Ok(ImageSource::Folder { folder, dataset }),
            (None, Some(dataset)) => Ok(ImageSource::Dataset(dataset)),
            (None, None) => anyhow::bail!("nothing to do: give `--dataset NAME` or `--images DIR`"),
        }
    }
}
