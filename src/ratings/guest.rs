//! Any rating network as a guest of the engine: one task with one score per image.

use std::sync::Arc;

use tch::{Device, TchError, Tensor};

use super::settings::{RatingError, RatingSettings};
use crate::engine::{
    Batch, BatchSize, DeviceMemory, Guest, GuestError, GuestSettings, GuestWords, Input, InputSize, Launched, Loaded,
    Network, Output, OutputRows, Preprocessor, Score, Task, Unusable, Values, Work,
};
use crate::features::{CommonSettings, catching, device_memory};
use agiqa_images::RgbImage8;
use agiqa_nets::device::{Fetch, sent};
use agiqa_nets::raters::{Prepare, Prepared, Rater, RaterName, Unfit};
use agiqa_nets::trained_head::LabelScale;
use agiqa_store::tables::scores::ScoreSet;

/// Default number of images per batch on a CPU. Several crops of one image fill its threads.
const CPU_BATCH_SIZE: usize = 1;

/// Default number of images per batch on a GPU, which needs much parallel work.
const GPU_BATCH_SIZE: usize = 8;

/// Checked settings, with the set that the network fills.
struct RatingGuest {
    settings: RatingSettings,
    set: ScoreSet,
}

impl Guest for RatingGuest {
    fn tasks(&self) -> Vec<Task> {
        vec![Task { name: self.set.scorer.to_string(), outputs: vec![Output::Scores(self.set.clone())] }]
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        let (network, common) = (self.settings.network, &self.settings.common);
        let device = common.device.device()?;
        let dtype = self.settings.options.dtype.unwrap_or_default();
        dtype.check_on(device)?;
        let file = self.settings.file()?;
        // Most of tch panics if memory is short.
        let loaded = catching(|| file.load(device, dtype.kind()));
        let loaded = loaded.map_err(|source| RatingError::Torch { network, action: "loading", source })?;
        let rater = loaded.map_err(|source| RatingError::Load { network, source })?;
        let preset = if device == Device::Cpu { CPU_BATCH_SIZE } else { GPU_BATCH_SIZE };
        Ok(Loaded::Network(Box::new(RatingNetwork {
            network,
            preprocessor: Arc::new(Pictures(rater.preprocessor())),
            rater,
            device,
            labels: self.settings.trained.as_ref().map(|trained| trained.labels),
            batch_size: BatchSize::of(common.batch_size.map(std::num::NonZeroUsize::get), preset),
        })))
    }
}

impl From<Prepared> for Input {
    fn from(Prepared { values, shape }: Prepared) -> Self {
        Self { values: Values::F32(values), shape }
    }
}

/// The network's preprocessor for the engine.
struct Pictures(Arc<dyn Prepare>);

impl Preprocessor for Pictures {
    fn size(&self) -> InputSize {
        if self.0.has_one_shape() { InputSize::Fixed } else { InputSize::Varying }
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        match self.0.prepare(image) {
            Ok(prepared) => Ok(prepared.into()),
            Err(unfit) => {
                let kind = match &unfit {
                    Unfit::TooSmall { .. } => "too-small",
                    Unfit::TooLarge { .. } => "too-large",
                };
                Err(Unusable { kind, message: unfit.to_string() })
            }
        }
    }
}

/// The loaded network.
struct RatingNetwork {
    network: RaterName,
    rater: Box<dyn Rater>,
    preprocessor: Arc<Pictures>,
    device: Device,
    /// From ratings to the MOS scale, for trained weights.
    labels: Option<LabelScale>,
    batch_size: BatchSize,
}

impl RatingNetwork {
    /// The ratings of a batch on their way from the device. Panics if torch fails, as tch's methods do.
    fn ratings(&self, batch: &Batch<'_>) -> Result<Fetch, TchError> {
        let _no_grad = tch::no_grad_guard();
        let inputs = Tensor::from_slice(batch.values.as_f32()).view(batch.whole_shape().as_slice());
        let inputs = sent(&inputs, self.device)?;
        Fetch::of(&self.rater.rate(&inputs).narrow(0, 0, batch.n_images as i64))
    }
}

impl Network for RatingNetwork {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.preprocessor.clone()
    }

    fn batch_size(&self) -> BatchSize {
        self.batch_size
    }

    fn memory(&self) -> Option<DeviceMemory> {
        device_memory(self.device)
    }

    fn on_cpu(&self) -> bool {
        self.device == Device::Cpu
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let (network, labels) = (self.network, self.labels);
        let failed = move |source| RatingError::Torch { network, action: "rating a batch", source };
        let ratings = catching(|| self.ratings(batch)).flatten().map_err(failed)?;
        let scaled = move |rating: f32| {
            let rating = f64::from(rating);
            labels.map_or(rating, |LabelScale { scale, offset }| rating * scale + offset)
        };
        let wait: Launched = Box::new(move || {
            let ratings = ratings.wait().map_err(failed)?;
            Ok(vec![OutputRows::Scores(ratings.into_iter().map(scaled).map(Score::from).collect())])
        });
        Ok(wait)
    }
}

impl GuestSettings for RatingSettings {
    fn words(&self) -> GuestWords {
        GuestWords {
            stage: "score",
            title: match &self.trained {
                Some(trained) => format!("score {} by {}", self.network, trained.set.scorer),
                None => format!("score {}", self.network),
            },
            unit: "images",
            done: "images have scores",
            lacking: "images lack scores",
            retry_hint: None,
        }
    }

    fn work(&self) -> Work {
        let CommonSettings { max_pixels, shard, retry_rejects, part_rows, part_secs, .. } = self.common;
        Work { max_pixels, shard, retry_rejects, part_rows, part_secs }
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        let set = self.score_set(&self.file()?)?;
        Ok(Box::new(RatingGuest { settings: self.clone(), set }))
    }
}
