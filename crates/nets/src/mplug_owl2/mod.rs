//! mPLUG-Owl2 (Ye et al. 2023, arXiv 2311.04257) as a prompt embedder. Its inputs are an image and a question. Its
//! output is the mean of the language model's last hidden states (MA-AGIQA, §3.2).
//!
//! The reference is the published MA-AGIQA extraction with transformers 4.31. Tensors have the checkpoint's names. Work
//! that the embedding does not need is left out: the output head is not computed, the vision tower runs once for all
//! prompts, and the text before the image is computed once per run. All layers are needed, because the mean is taken
//! over all positions.
//!
//! ```text
//! pixels ─ vision tower ─ abstractor ─► visual tokens ─┐
//! prompt: text before ─► keys, values, sum of hidden ──┼─ decoder ─► mean over all positions
//!         text after ──────────────────────────────────┘
//! ```

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointScope};

mod config;

pub use config::{AbstractorConfig, Config, DecoderConfig, VisionConfig};

mod tensors;

pub use tensors::tensors;

pub mod tokenizer;

pub use tokenizer::Tokenizer;

mod prompt;

pub use prompt::{Prompt, PromptIds};

mod preprocess;

pub use preprocess::Preprocessing;

mod vision;

mod abstractor;

mod decoder;

use abstractor::Abstractor;
use decoder::{Branch, Decoder, Group, Prefix, Segment};
use vision::VisionTower;

/// Why the network could not be loaded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file has another form, or asks for other steps.
    #[error("{}: {problem}", path.display())]
    Unusable { path: PathBuf, problem: String },
    /// `config.json` describes another network.
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    Unsupported { path: PathBuf, key: &'static str, found: String, expected: String },
    /// The folder has no tokenizer.
    #[error("{} holds neither tokenizer.model nor tokenizer.json; copy one from the checkpoint", folder.display())]
    NoTokenizer { folder: PathBuf },
    /// The tensors are unusable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The folder holds files of different checkpoints.
    #[error("{}: {problem}: these files belong to different checkpoints", folder.display())]
    Mismatch {
        folder: PathBuf,
        /// The files, and the difference between them.
        problem: String,
    },
}

/// The bytes of a file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let io_error = |source| LoadError::Io { path: path.to_owned(), source };
    let n_bytes = std::fs::metadata(path).map_err(io_error)?.len();
    if n_bytes > limit {
        let problem = format!("{n_bytes} bytes are over the limit of {limit}");
        return Err(LoadError::Unusable { path: path.to_owned(), problem });
    }
    std::fs::read(path).map_err(io_error)
}

/// The small files of a checkpoint's folder: sizes, tokenizer and preprocessing.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// Sizes of the network.
    pub config: Config,
    /// The tokenizer of prompts.
    pub tokenizer: Tokenizer,
    /// The preprocessing of images.
    pub preprocessing: Preprocessing,
}

impl Frontend {
    /// Greatest size of a file of settings, bytes.
    const MAX_BYTES: u64 = 16 << 20;

    /// Reads `config.json`, `preprocessor_config.json` and `tokenizer.model` or `tokenizer.json` from `folder`.
    ///
    /// # Errors
    /// A file is absent or unusable, or the files do not fit each other.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let preprocessing = Preprocessing::read(&folder.join("preprocessor_config.json"))?;
        let tokenizer = Tokenizer::find(folder)?;
        let mismatch = |problem: String| LoadError::Mismatch { folder: folder.to_owned(), problem };
        if tokenizer.n_tokens() as i64 != config.decoder.vocab_size {
            return Err(mismatch(format!(
                "the tokenizer has {} tokens and config.json a vocabulary of {}",
                tokenizer.n_tokens(),
                config.decoder.vocab_size
            )));
        }
        if i64::from(preprocessing.side_px) != config.vision.image_px {
            return Err(mismatch(format!(
                "preprocessor_config.json makes images of {} px and config.json expects {}",
                preprocessing.side_px, config.vision.image_px
            )));
        }
        Ok(Self { config, tokenizer, preprocessing })
    }
}

/// All files of the checkpoint in `folder` that decide the numbers: first the files with tensors, then the small files.
pub fn files(folder: &Path, checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = checkpoint.files().map(Path::to_owned).collect();
    // With several shards, the index decides which of them a tensor comes from.
    if files.iter().all(|file| file != checkpoint.path()) {
        files.push(checkpoint.path().to_owned());
    }
    let tokenizer = ["tokenizer.model", "tokenizer.json"].into_iter().find(|name| folder.join(name).exists());
    files
        .extend(["config.json", "preprocessor_config.json"].into_iter().chain(tokenizer).map(|name| folder.join(name)));
    files
}

/// The loaded network with its prompts.
#[derive(Debug)]
pub struct MplugOwl2 {
    vision: VisionTower,
    abstractor: Abstractor,
    decoder: Decoder,
    /// Per prompt, the decoder's state after the text before the image.
    prefixes: Vec<Prefix>,
    /// The text after the image, `(t, d)`, f32.
    suffix: Tensor,
    device: Device,
}

impl MplugOwl2 {
    /// Builds the network from a checkpoint on `device`, with weights in `kind`, for these prompts. Matrix products are
    /// in `kind`, or in f32 if weights are bf16 and the CPU multiplies f32 faster. Residuals, norms and results are
    /// always f32.
    ///
    /// # Errors
    /// Tensors are missing, have another shape or do not hold floating-point numbers, or memory is short.
    ///
    /// # Panics
    /// Without prompts, or with ids beyond the vocabulary. Both are the caller's bugs.
    pub fn new(
        checkpoint: &Checkpoint,
        config: &Config,
        prompts: &[PromptIds],
        device: Device,
        kind: Kind,
    ) -> Result<Self, CheckpointError> {
        let after = &prompts.first().expect("at least one prompt").after;
        assert!(prompts.iter().all(|prompt| prompt.after == *after), "the template ends alike for every prompt");
        let _no_grad = tch::no_grad_guard();
        checkpoint.require(&tensors(config))?;
        let p = checkpoint.root(device, kind).sub("model");
        let n_before = prompts.iter().map(|prompt| prompt.before.len()).max().unwrap_or(0) as i64;
        let n_positions = n_before + config.n_visual_tokens() + after.len() as i64;
        let decoder = Decoder::new(&p, &config.decoder, n_positions)?;
        let embed = |ids: &[i64]| embed_tokens(&p, config, ids);
        let embedded_before = prompts.iter().map(|prompt| embed(&prompt.before)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            vision: VisionTower::new(&p.sub("vision_model"), &config.vision)?,
            abstractor: Abstractor::new(&p.sub("visual_abstractor"), config)?,
            prefixes: decoder.prefixes(&embedded_before),
            suffix: embed(after)?,
            decoder,
            device,
        })
    }

    /// Embeddings of images under all prompts.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: per prompt `(b, d)`, f32
    pub fn embed(&self, pixels: &Tensor) -> Vec<Tensor> {
        self.embed_first(pixels, pixels.size()[0])
    }

    /// As [`Self::embed`], for the first `n_real` images. The others are padding: rounding in the language model's
    /// products depends on the size of the batch, and padding keeps it constant. A CPU sees images one by one, so there
    /// the vision tower skips the padding.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: per prompt `(n_real, d)`, f32
    pub fn embed_first(&self, pixels: &Tensor, n_real: i64) -> Vec<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let b = pixels.size()[0];
        let visual = match self.device {
            Device::Cpu => {
                let seen = self.see(&pixels.narrow(0, 0, n_real));
                seen.constant_pad_nd([0, 0, 0, 0, 0, b - n_real])
            }
            _ => self.see(pixels),
        };
        let hidden = self.read(&visual);
        let mean = |(i, prefix): (usize, &Prefix)| {
            let prompt_hidden = hidden.narrow(0, i as i64 * b, n_real); // (n_real, n, d)
            let n = prefix.n_tokens + prompt_hidden.size()[1];
            let sum = prompt_hidden.sum_dim_intlist([1_i64].as_slice(), false, Kind::Float);
            (sum + &prefix.hidden_sum) / n as f64
        };
        self.prefixes.iter().enumerate().map(mean).collect()
    }

    /// Visual tokens of images, the end token last.
    ///
    /// On a CPU, images are computed one after the other, so that activations stay in the caches and an image's numbers
    /// do not depend on the size of the batch.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: `(b, v, d)`, f32
    pub fn see(&self, pixels: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let pixels = pixels.to_device(self.device);
        match self.device {
            Device::Cpu => {
                let one = |i: i64| self.abstractor.forward(&self.vision.forward(&pixels.narrow(0, i, 1)));
                Tensor::cat(&(0..pixels.size()[0]).map(one).collect::<Vec<_>>(), 0)
            }
            _ => self.abstractor.forward(&self.vision.forward(&pixels)),
        }
    }

    /// Tokens of the vision tower.
    ///
    /// # Shapes
    /// - pixels: `(b, 3, s, s)`, f32, normalised
    /// - returns: `(b, 1 + g², d)`, f32: the class token, then the patches row by row
    pub fn vision_tokens(&self, pixels: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        self.vision.forward(&pixels.to_device(self.device))
    }

    /// Final hidden states of the image's positions and all later ones, prompts one after the other.
    ///
    /// # Shapes
    /// - visual: `(b, v, d)`, f32
    /// - returns: `(prompts · b, v + t, d)`, f32
    pub fn read(&self, visual: &Tensor) -> Tensor {
        self.reading(visual, Decoder::forward)
    }

    /// The final hidden state of the last position, which predicts the next token, prompts one after the other.
    ///
    /// # Shapes
    /// - visual: `(b, v, d)`, f32
    /// - returns: `(prompts · b, d)`, f32
    pub fn last_hidden(&self, visual: &Tensor) -> Tensor {
        self.reading(visual, Decoder::last)
    }

    /// The result of `pass` over the positions of the image and all later ones, after the prompts' prefixes.
    fn reading(&self, visual: &Tensor, pass: impl Fn(&Decoder, &Tensor, &[Segment], &[Group]) -> Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let (b, v, d) = visual.size3().expect("visual tokens are (b, v, d)");
        let (p, t) = (self.prefixes.len() as i64, self.suffix.size()[0]);
        let image_rows = visual.unsqueeze(0).expand([p, b, v, d], false).reshape([-1, d]);
        let text_rows = self.suffix.unsqueeze(0).expand([p * b, t, d], false).reshape([-1, d]);
        let segments = [Segment { branch: Branch::Visual, n_tokens: v }, Segment { branch: Branch::Text, n_tokens: t }];
        let groups: Vec<Group> =
            self.prefixes.iter().map(|prefix| Group { n_sequences: b, prefix: Some(prefix) }).collect();
        pass(&self.decoder, &Tensor::cat(&[image_rows, text_rows], 0), &segments, &groups)
    }
}

/// Rows of the token table, `(n, d)`, f32. The whole table is never loaded.
fn embed_tokens(p: &CheckpointScope, config: &Config, ids: &[i64]) -> Result<Tensor, CheckpointError> {
    let sizes = &config.decoder;
    assert!(ids.iter().all(|id| (0..sizes.vocab_size).contains(id)), "ids are below the vocabulary's size");
    let table = p.checkpoint().tensor(&p.name("embed_tokens.weight"), &[sizes.vocab_size, sizes.dim])?;
    let rows = table.index_select(0, &Tensor::from_slice(ids));
    Ok(rows.to_kind(Kind::Float).to_device(p.device()))
}
