//! The handcrafted methods as a guest of the engine: a task per method, computed on every thread.

use super::settings::{BaselineError, BaselineSettings};
use crate::engine::{
    Guest, GuestError, GuestSettings, GuestWords, Loaded, Output, OutputRows, PerImage, Task, Unusable, Work,
};
use agiqa_handcrafted::{Method, Scorer};
use agiqa_images::{ResizeFilter, RgbImage8};
use agiqa_store::tables::scores::ScoreSet;

/// Checked settings, with the score set of each method.
struct Handcrafted {
    settings: BaselineSettings,
    sets: Vec<ScoreSet>,
}

impl Guest for Handcrafted {
    fn tasks(&self) -> Vec<Task> {
        let task = |set: &ScoreSet| Task { name: set.scorer.to_string(), outputs: vec![Output::Scores(set.clone())] };
        self.sets.iter().map(task).collect()
    }

    fn load(&self) -> Result<Loaded, GuestError> {
        let folder = self.settings.params_folder();
        let load = |method: &Method| Ok((*method, method.load(&folder)?));
        let scorers = self.settings.methods.iter().map(load).collect::<Result<_, BaselineError>>()?;
        Ok(Loaded::PerImage(Box::new(Scorers { scorers, side_px: self.settings.side })))
    }
}

/// The methods with their parameters.
struct Scorers {
    scorers: Vec<(Method, Box<dyn Scorer>)>,
    side_px: Option<u32>,
}

impl PerImage for Scorers {
    fn compute(&self, image: &RgbImage8, tasks: &[usize]) -> Vec<Result<Vec<OutputRows>, Unusable>> {
        let resized = self.side_px.map(|side| agiqa_images::resize(image, side, side, ResizeFilter::Bilinear));
        let image = resized.as_ref().unwrap_or(image);
        let score = |task: &usize| {
            let (method, scorer) = &self.scorers[*task];
            let scored = scorer.score(image).map(|score| vec![OutputRows::Scores(vec![score.into()])]);
            scored.map_err(|error| Unusable { kind: error.kind(), message: format!("no {method} score: {error}") })
        };
        tasks.iter().map(score).collect()
    }
}

impl GuestSettings for BaselineSettings {
    fn words(&self) -> GuestWords {
        let methods: Vec<&str> = self.methods.iter().map(|method| method.as_str()).collect();
        GuestWords {
            stage: "baseline",
            title: format!("baseline {}", methods.join(",")),
            unit: "scores",
            done: "scores are present",
            lacking: "scores are lacking",
            retry_hint: None,
        }
    }

    fn work(&self) -> Work {
        let Self { max_pixels, shard, retry_rejects, part_rows, part_secs, .. } = *self;
        Work { max_pixels, shard, retry_rejects, part_rows, part_secs }
    }

    fn resolve(&self) -> Result<Box<dyn Guest>, GuestError> {
        self.check()?;
        let sets = self.methods.iter().map(|method| self.score_set(*method)).collect::<Result<_, _>>()?;
        Ok(Box::new(Handcrafted { settings: self.clone(), sets }))
    }
}
