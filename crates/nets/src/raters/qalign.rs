//! Q-Align and OneAlign (Wu et al., ICML 2024, arXiv 2312.17090): mPLUG-Owl2 with its output head, which begins the
//! sentence "The quality of the image is" and names five levels with different probabilities.
//!
//! The reference is Q-Future/Q-Align at 14dfdff. The score is the mean of the levels' numbers under a softmax over five
//! of the vocabulary's logits, so five rows of the head and one position are computed. Images are computed one by one:
//! a score then has the same bits in every batch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agiqa_images::RgbImage8;
use tch::{Device, Kind, Tensor};

use super::{Prepare, Prepared, Rater, RaterError, Unfit};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::mplug_owl2::{self, Frontend, MplugOwl2, Preprocessing, PromptIds, Tokenizer};
use crate::pixels::Planes;

/// Names of the levels, the best first.
const LEVELS: [&str; 5] = ["excellent", "good", "fair", "poor", "bad"];

/// Name of the output head.
const HEAD: &str = "lm_head.weight";

/// What ends the names of variants that score from 0 to 1 and not from 1 to 5.
const UNIT: &str = "-0-1";

/// Variants, the default first. The published codes differ in their prompts.
pub(crate) const VARIANTS: &[&str] = &[
    "quality",
    "quality-0-1",
    "quality-eval",
    "quality-eval-0-1",
    "quality-github",
    "quality-github-0-1",
    "aesthetics",
    "aesthetics-0-1",
    "aesthetic",
    "aesthetic-0-1",
    "video",
    "video-0-1",
];

/// The prompt of `variant`.
pub(crate) fn prompt(variant: &str) -> String {
    let ask = |what: &str, of: &str, between: &str| {
        format!(
            "USER: How would you rate the {what} of this {of}?\n<|image|>{between}ASSISTANT: The {what} of the {of} is"
        )
    };
    match variant.trim_end_matches(UNIT) {
        // `evaluate/iqa_eval.py`, and the conversations of the training: a space and no new line after the image.
        "quality-eval" => ask("quality", "image", " "),
        // `score` of the model's own file swaps two words.
        "quality-github" => {
            ask("quality", "image", "\n").replace("The quality of the image is", "The image of the quality is")
        }
        "aesthetics" => ask("aesthetics", "image", "\n"),
        // pyiqa's word.
        "aesthetic" => ask("aesthetic", "image", "\n"),
        // One picture in the place of all frames.
        "video" => ask("quality", "video", "\n"),
        // `evaluate/scorer.py`, and pyiqa.
        _ => ask("quality", "image", "\n"),
    }
}

/// Longest side of an image: the square that it is padded to has 200 MB in 8 bits.
const MAX_SIDE_PX: u32 = 8192;

/// A folder with a checkpoint, found complete.
pub(crate) struct Folder {
    frontend: Frontend,
    checkpoint: Checkpoint,
    path: PathBuf,
    prompt: PromptIds,
    levels: [i64; 5],
    is_unit: bool,
}

impl Folder {
    /// Opens the checkpoint in the folder `path`, an adapter in it included. Reads no values.
    pub(crate) fn open(path: &Path, variant: &str) -> Result<Self, RaterError> {
        let frontend = Frontend::read(path)?;
        let checkpoint = Checkpoint::open(path)?.with_adapter(path)?;
        checkpoint.require(&all_tensors(&frontend))?;
        let levels =
            levels(&frontend.tokenizer).map_err(|problem| CheckpointError::Index { path: path.to_owned(), problem })?;
        Ok(Self {
            prompt: PromptIds::of_text(&prompt(variant), &frontend.tokenizer),
            levels,
            is_unit: variant.ends_with(UNIT),
            path: path.to_owned(),
            frontend,
            checkpoint,
        })
    }

    /// All files that decide the numbers.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        mplug_owl2::files(&self.path, &self.checkpoint)
    }

    pub(crate) fn load(&self, device: Device, kind: Kind) -> Result<QAlign, RaterError> {
        let Self { frontend: Frontend { config, preprocessing, .. }, checkpoint, prompt, .. } = self;
        let network = MplugOwl2::new(checkpoint, config, std::slice::from_ref(prompt), device, kind)?;
        let head = checkpoint.tensor(HEAD, &[config.decoder.vocab_size, config.decoder.dim])?;
        let head = head.index_select(0, &Tensor::from_slice(&self.levels)).to_kind(Kind::Float).to_device(device);
        let numbers: [f32; 5] = if self.is_unit { [1.0, 0.75, 0.5, 0.25, 0.0] } else { [5.0, 4.0, 3.0, 2.0, 1.0] };
        let numbers = Tensor::from_slice(&numbers).to_device(device);
        Ok(QAlign { network, head, numbers, squares: Arc::new(Squares(preprocessing.clone())) })
    }
}

/// Names and shapes of all tensors of a checkpoint.
fn all_tensors(frontend: &Frontend) -> Vec<(String, Vec<i64>)> {
    let mut all = mplug_owl2::tensors(&frontend.config);
    all.push((HEAD.to_owned(), vec![frontend.config.decoder.vocab_size, frontend.config.decoder.dim]));
    all
}

/// The ids of the levels: the first token of each word, as in the published code.
pub(crate) fn levels(tokenizer: &Tokenizer) -> Result<[i64; 5], String> {
    let ids = LEVELS.map(|word| tokenizer.encode(word).get(1).copied());
    for (i, id) in ids.iter().enumerate() {
        if id.is_none() || ids[..i].contains(id) {
            return Err(format!("its tokenizer does not tell the word `{}` from the words before", LEVELS[i]));
        }
    }
    Ok(ids.map(Option::unwrap_or_default))
}

/// The loaded network.
pub(crate) struct QAlign {
    pub(crate) network: MplugOwl2,
    head: Tensor,    // (5, d), f32
    numbers: Tensor, // (5,), f32
    squares: Arc<Squares>,
}

impl QAlign {
    /// The logits of the five levels, the best first.
    ///
    /// # Shapes
    /// - pixels: `(1, 3, s, s)`, f32, normalised
    /// - returns: `(1, 5)`, f32
    pub(crate) fn level_logits(&self, pixels: &Tensor) -> Tensor {
        self.network.last_hidden(&self.network.see(pixels)).linear(&self.head, None::<&Tensor>)
    }
}

impl Rater for QAlign {
    fn preprocessor(&self) -> Arc<dyn Prepare> {
        self.squares.clone()
    }

    fn rate(&self, inputs: &Tensor) -> Tensor {
        let one = |i: i64| {
            let probabilities = self.level_logits(&inputs.narrow(0, i, 1)).softmax(-1, Kind::Float); // (1, 5)
            (probabilities * &self.numbers).sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)
        };
        Tensor::cat(&(0..inputs.size()[0]).map(one).collect::<Vec<_>>(), 0)
    }
}

/// Pads, resizes and normalises as the published code does.
struct Squares(Preprocessing);

impl Prepare for Squares {
    fn has_one_shape(&self) -> bool {
        true
    }

    fn prepare(&self, image: &RgbImage8) -> Result<Prepared, Unfit> {
        let side_px = image.width_px.max(image.height_px);
        let n_padded = u64::from(side_px) * u64::from(side_px);
        Unfit::check_limit(image, n_padded, u64::from(MAX_SIDE_PX) * u64::from(MAX_SIDE_PX))?;
        let Planes { values, height, width } = self.0.prepare(image);
        Ok(Prepared { values, shape: vec![3, height as i64, width as i64] })
    }
}
