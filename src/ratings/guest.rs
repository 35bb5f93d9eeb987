//! Any rating network as a guest of the engine: one task with one score per image.

use std::sync::Arc;

use tch::TchError;

use super::settings::{RatingError, RatingSettings};
use crate::engine::{
    Batch, Frame, Guest, GuestError, GuestSettings, GuestWords, Input, InputSize, Launched, Loaded, Network, Output,
    OutputRows, Preprocessor, Score, Task, Unusable, Values, Work,
};
use crate::features::catching;
use agiqa_images::RgbImage8;
use agiqa_nets::device::Fetch;
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
        let dtype = self.settings.options.dtype.unwrap_or_default();
        let device = common.device_for(dtype)?;
        let file = self.settings.file()?;
        // Most of tch panics if memory is short.
        let loaded = catching(|| file.load(device, dtype.kind()));
        let loaded = loaded.map_err(|source| RatingError::Torch { network, action: "loading", source })?;
        let rater = loaded.map_err(|source| RatingError::Load { network, source })?;
        let frame = Frame {
            preprocessor: Arc::new(Pictures(rater.preprocessor())),
            batch_size: common.batch_size_on(device, [CPU_BATCH_SIZE, GPU_BATCH_SIZE]),
            device,
            notes: Vec::new(),
        };
        let labels = self.settings.trained.as_ref().map(|trained| trained.labels);
        Ok(Loaded::Network(Box::new(RatingNetwork { network, rater, frame, labels })))
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
    frame: Frame,
    /// From ratings to the MOS scale, for trained weights.
    labels: Option<LabelScale>,
}

impl RatingNetwork {
    /// The ratings of a batch on their way from the device. Panics if torch fails, as tch's methods do.
    fn ratings(&self, batch: &Batch<'_>) -> Result<Fetch, TchError> {
        let _no_grad = tch::no_grad_guard();
        Fetch::of(&self.rater.rate(&batch.on(self.frame.device)?).narrow(0, 0, batch.n_images() as i64))
    }
}

impl Network for RatingNetwork {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let (network, labels) = (self.network, self.labels);
        let failed = move |source| RatingError::Torch { network, action: "rating a batch", source };
        let ratings = catching(|| self.ratings(batch)).flatten().map_err(failed)?;
        let score = move |rating: f32| {
            let rating = f64::from(rating);
            Score::from(labels.map_or(rating, |labels| labels.mos(rating)))
        };
        let wait: Launched = Box::new(move || {
            let ratings = ratings.wait().map_err(failed)?;
            Ok(vec![OutputRows::Scores(ratings.into_iter().map(score).collect())])
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
        self.common.work()
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        let set = self.score_set(&self.file()?)?;
        Ok(Box::new(RatingGuest { settings: self.clone(), set }))
    }
}
