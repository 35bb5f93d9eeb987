//! `mplug-owl2`: embeddings of an image under prompts, such as the paper's `f_a` and `f_b`. Each prompt fills one
//! column.
//!
//! The user provides the weights: a folder with the released checkpoint, or another checkpoint of its layout.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::extractor::{Precision, column, described_set, guarded, hash_of_files, values};
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError,
};
use crate::engine::{Batch, GuestError, Input, Loaded, Network, OutputRows, Preprocessor, Unusable, Values};
use agiqa_images::{DECODER_VERSION, RgbImage8};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::mplug_owl2::{Frontend, MplugOwl2, Preprocessing, Prompt, PromptIds};
use agiqa_store::path_text;
use agiqa_store::tables::features::FeatureKind;
use agiqa_weights::Effort;

const NAME: ExtractorName = ExtractorName::MplugOwl2;

/// Version of this file and the network, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 2;

/// Default number of images per batch. It gives enough rows for the language model's products to run at their full
/// rate.
const BATCH_SIZE: usize = 8;

/// Greatest number of prompts. Each prompt adds a column and a pass of the language model.
const MAX_PROMPTS: usize = 64;

/// Longest text of a prompt in tokens, before the image.
const MAX_PROMPT_TOKENS: usize = 2048;

/// Names of columns that the table has for every extractor. Two of them occur in its folders' names, which query
/// engines read as columns, too.
const RESERVED_COLUMNS: [&str; 4] = ["image_id", "n_tokens", "extractor", "fingerprint"];

/// A user's settings of the network. An absent setting takes its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MplugOwl2Options {
    /// Folder of the checkpoint; default: `mplug-owl2` in the weights folder.
    #[serde(with = "path_text::optional")]
    pub weights: Option<PathBuf>,
    /// Prompts that images are read under, one column each. They decide the numbers. Default: the paper's two prompts.
    pub prompts: Option<Vec<Prompt>>,
    /// Number type of the network, `f32`, `bf16` or `f16`. It decides the numbers. Default: `f32`.
    pub dtype: Option<Dtype>,
}

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct MplugOwl2Settings {
    folder: PathBuf,
    frontend: Frontend,
    prompts: Vec<Prompt>,
    ids: Vec<PromptIds>,
    precision: Precision,
    device: DeviceChoice,
    batch_size: usize,
    weights_blake3: String,
}

/// All settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Description<'a> {
    extractor: ExtractorName,
    code_version: u32,
    /// Hash of the tensor files and their index, configuration, tokenizer and preprocessor.
    weights_blake3: &'a str,
    decoder_version: u32,
    resize: &'a str,
    side_px: u32,
    #[serde(flatten)]
    precision: Precision,
    pooling: &'a str,
    prompts: Vec<DescribedPrompt<'a>>,
}

#[derive(Serialize)]
struct DescribedPrompt<'a> {
    column: &'a str,
    text: String,
    /// Number of tokens over which the embedding is the mean.
    n_tokens: i64,
}

fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> ExtractError {
    ExtractError::Load { extractor: NAME, source: Box::new(source) }
}

impl MplugOwl2Settings {
    /// Checks the settings: reads the folder's small files and hashes all files that decide the numbers (only once, see
    /// [`agiqa_weights::hash_of_file`]). Without `weights`, the folder is `mplug-owl2` in the weights folder.
    ///
    /// # Errors
    /// The folder is absent, lacks files, or holds another network; or the prompts cannot form columns.
    pub fn new(options: &MplugOwl2Options, common: &CommonSettings) -> Result<Self, ExtractError> {
        let weights = agiqa_weights::find(NAME.as_str())?;
        let folder = options.weights.clone().unwrap_or_else(|| weights.folder());
        let prompts = checked(options.prompts.clone().unwrap_or_else(Prompt::of_the_paper))?;
        weights.check(&folder, Effort::StampServes)?;
        let frontend = Frontend::read(&folder).map_err(load_error)?;
        let ids: Vec<PromptIds> = prompts.iter().map(|prompt| PromptIds::of(prompt, &frontend.tokenizer)).collect();
        if let Some((prompt, ids)) = prompts.iter().zip(&ids).find(|(_, ids)| ids.before.len() > MAX_PROMPT_TOKENS) {
            let problem = format!("{} tokens are over the limit of {MAX_PROMPT_TOKENS}", ids.before.len());
            return Err(FeatureSettingsError::Value { key: "prompts", found: prompt.column.clone(), problem }.into());
        }
        let weights_blake3 = content_hash(&folder)?;
        Ok(Self {
            folder,
            frontend,
            prompts,
            ids,
            precision: Precision::of(options.dtype.unwrap_or_default(), common.device),
            device: common.device,
            batch_size: common.batch_size.map_or(BATCH_SIZE, std::num::NonZeroUsize::get),
            weights_blake3,
        })
    }

    fn n_tokens(&self, ids: &PromptIds) -> i64 {
        (ids.before.len() + ids.after.len()) as i64 + self.frontend.config.n_visual_tokens()
    }
}

/// Refuses prompts that cannot form the columns of a table.
fn checked(prompts: Vec<Prompt>) -> Result<Vec<Prompt>, FeatureSettingsError> {
    let wrong = |found: &str, problem: String| {
        Err(FeatureSettingsError::Value { key: "prompts", found: found.to_owned(), problem })
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        return wrong(&format!("{} prompts", prompts.len()), format!("expected 1 to {MAX_PROMPTS}"));
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let column = &prompt.column;
        let is_name = column.starts_with(|c: char| c.is_ascii_lowercase())
            && column.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || RESERVED_COLUMNS.contains(&column.as_str()) {
            let problem = "expected a column name of small letters, digits and `_`, other than the table's own columns";
            return wrong(column, problem.to_owned());
        }
        if prompts[..i].iter().any(|other| other.column == *column) {
            return wrong(column, "duplicate column".to_owned());
        }
        if prompt.question.trim().is_empty() || prompt.has_marker() {
            return wrong(column, "expected a question, without `<|image|>`, which the template adds".to_owned());
        }
    }
    Ok(prompts)
}

/// One hash over the names and contents of the files that decide the numbers.
fn content_hash(folder: &std::path::Path) -> Result<String, ExtractError> {
    let checkpoint = Checkpoint::open(folder).map_err(load_error)?;
    let mut files: Vec<PathBuf> = checkpoint.files().map(PathBuf::from).collect();
    // With several shards, the index decides which of them a tensor comes from, so it is hashed, too.
    if files.iter().all(|file| file != checkpoint.path()) {
        files.push(checkpoint.path().to_owned());
    }
    let tokenizer = ["tokenizer.model", "tokenizer.json"].iter().find(|name| folder.join(name).exists());
    files.extend(["config.json", "preprocessor_config.json"].iter().chain(tokenizer).map(|name| folder.join(name)));
    hash_of_files(&files).map_err(load_error)
}

impl ExtractorKind for MplugOwl2Settings {
    fn feature_sets(&self) -> FeatureSets {
        let described =
            |(prompt, ids): (&'_ Prompt, &PromptIds)| (prompt.column.clone(), prompt.text(), self.n_tokens(ids));
        let described: Vec<_> = self.prompts.iter().zip(&self.ids).map(described).collect();
        let prompts = described
            .iter()
            .map(|(column, text, n_tokens)| DescribedPrompt { column, text: text.clone(), n_tokens: *n_tokens })
            .collect();
        let description = Description {
            extractor: NAME,
            code_version: CODE_VERSION,
            weights_blake3: &self.weights_blake3,
            decoder_version: DECODER_VERSION,
            resize: "padded to a square, Pillow bicubic",
            side_px: self.frontend.preprocessing.side_px,
            precision: self.precision,
            pooling: "mean over all positions of the last hidden states",
            prompts,
        };
        let dim = self.frontend.config.decoder.dim as usize;
        let columns = self.prompts.iter().map(|prompt| column(&prompt.column, dim)).collect();
        let semantic = described_set(NAME, FeatureKind::Semantic, &description, columns);
        FeatureSets { semantic: Some(semantic), quality: None }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let device = self.device.device()?;
        let dtype = self.precision.dtype;
        dtype.check_on(device)?;
        let checkpoint = Checkpoint::open(&self.folder).map_err(load_error)?;
        let network = MplugOwl2::new(&checkpoint, &self.frontend.config, &self.ids, device, dtype.kind());
        let n_tokens: i64 = self.ids.iter().map(|ids| self.n_tokens(ids)).sum();
        Ok(Loaded::Network(Box::new(MplugOwl2Extractor {
            network: network.map_err(load_error)?,
            unused: checkpoint.unused().into_iter().map(str::to_owned).collect(),
            device,
            batch_size: self.batch_size,
            at_once: AtOnce::new(self.batch_size),
            n_columns: self.prompts.len(),
            n_tokens: u32::try_from(n_tokens).unwrap_or(u32::MAX),
            preprocessor: Arc::new(Squares { preprocessing: self.frontend.preprocessing.clone() }),
        })))
    }
}

/// Pads, resizes and normalises as the published code does.
struct Squares {
    preprocessing: Preprocessing,
}

impl Squares {
    fn n_values(&self) -> usize {
        let side_px = self.preprocessing.side_px as usize;
        3 * side_px * side_px
    }
}

impl Preprocessor for Squares {
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let mut values = vec![0.0; self.n_values()];
        self.preprocessing.prepare(image, &mut values);
        let side = i64::from(self.preprocessing.side_px);
        Ok(Input { values: Values::F32(values), shape: vec![3, side, side] })
    }
}

/// The loaded network.
struct MplugOwl2Extractor {
    network: MplugOwl2,
    unused: Vec<String>,
    device: Device,
    batch_size: usize,
    at_once: AtOnce,
    n_columns: usize,
    /// Number of tokens of all prompts together.
    n_tokens: u32,
    preprocessor: Arc<Squares>,
}

/// The number of images that the network gets at once. It starts at the batch size and shrinks if memory is short.
#[derive(Debug)]
struct AtOnce {
    n_images: usize,
    warnings: Vec<String>,
}

impl AtOnce {
    fn new(n_images: usize) -> Self {
        Self { n_images, warnings: Vec::new() }
    }

    /// Calls `embed` with the images `0..n_images`, some at a time and in order, and with the number of images that
    /// each call is padded to. If memory is short, this halves the number of images at a time and starts again with the
    /// first image. Later batches start with the smaller number.
    ///
    /// # Errors
    /// `embed` fails for another reason, or memory is short for a single image.
    fn halving<T>(
        &mut self,
        n_images: usize,
        mut embed: impl FnMut(Range<usize>, usize) -> Result<T, ExtractError>,
    ) -> Result<Vec<T>, ExtractError> {
        loop {
            let size = self.n_images;
            let chunks = (0..n_images).step_by(size).map(|start| start..(start + size).min(n_images));
            match chunks.map(|images| embed(images, size)).collect::<Result<Vec<T>, ExtractError>>() {
                Err(ExtractError::Forward { source, .. })
                    if size > 1 && source.to_string().contains("out of memory") =>
                {
                    self.n_images = size.div_ceil(2);
                    self.warnings.push(format!(
                        "the device is out of memory: continuing with {n} images at once; `--batch-size {n}` does so \
                         from the start",
                        n = self.n_images
                    ));
                }
                ended => return ended,
            }
        }
    }
}

/// The embeddings of `images` of a batch, per column. `inputs` are the batch's inputs. Panics if torch fails, as tch's
/// methods do.
///
/// All calls have the same `size`, and the last one is padded, so that an image's numbers never depend on its
/// neighbours.
fn embeddings(
    network: &MplugOwl2,
    preprocessor: &Squares,
    inputs: &[f32],
    images: Range<usize>,
    size: usize,
) -> Vec<Vec<f32>> {
    let n_values = preprocessor.n_values();
    let side = i64::from(preprocessor.preprocessing.side_px);
    let mut chunk = inputs[images.start * n_values..images.end * n_values].to_vec();
    chunk.resize(size * n_values, 0.0);
    let pixels = Tensor::from_slice(&chunk).view([size as i64, 3, side, side]);
    let embedded = network.embed_first(&pixels, images.len() as i64);
    embedded.iter().map(values).collect()
}

impl Network for MplugOwl2Extractor {
    fn preprocessor(&self) -> Arc<dyn Preprocessor> {
        self.preprocessor.clone()
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn on_cpu(&self) -> bool {
        self.device == Device::Cpu
    }

    fn notes(&self) -> Vec<String> {
        // Every released checkpoint has the output head and the tables of rotary frequencies.
        let is_known = |name: &&String| name.as_str() == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        let unknown: Vec<&str> = self.unused.iter().filter(|name| !is_known(name)).map(String::as_str).collect();
        match unknown.len() {
            0 => Vec::new(),
            n => vec![format!("{n} tensors of the checkpoint are not read by `{NAME}`: {}", unknown.join(", "))],
        }
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.at_once.warnings)
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Vec<OutputRows>, GuestError> {
        let (inputs, n_images) = (batch.values.as_f32(), batch.n_images);
        let Self { network, preprocessor, at_once, .. } = self;
        let chunks = at_once.halving(n_images, |images, size| {
            guarded(NAME, n_images, || embeddings(network, preprocessor, inputs, images, size))
        })?;
        let mut columns = vec![Vec::new(); self.n_columns];
        for chunk in chunks {
            for (column, embedded) in columns.iter_mut().zip(chunk) {
                column.extend(embedded);
            }
        }
        Ok(vec![OutputRows::Vectors { columns, n_tokens: self.n_tokens }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(message: &str) -> ExtractError {
        ExtractError::Forward { extractor: NAME, n_images: 7, source: tch::TchError::Torch(message.to_owned()) }
    }

    /// An `embed` with memory for `room` images. It returns its images, and records the size of each call in `sizes`.
    fn with_room(
        room: usize,
        sizes: &mut Vec<usize>,
    ) -> impl FnMut(Range<usize>, usize) -> Result<Range<usize>, ExtractError> {
        move |images, size| {
            sizes.push(size);
            match size <= room {
                true => Ok(images),
                false => Err(failed("CUDA out of memory. Tried to allocate 2.00 GiB")),
            }
        }
    }

    #[test]
    fn if_memory_is_short_half_as_many_images_are_computed_at_once() {
        let (mut at_once, mut sizes) = (AtOnce::new(8), Vec::new());
        let found = at_once.halving(7, with_room(2, &mut sizes)).expect("there is room for two");
        assert_eq!(found, [0..2, 2..4, 4..6, 6..7]);
        assert_eq!(sizes, [8, 4, 2, 2, 2, 2]);
        let warned: Vec<bool> =
            [4, 2].iter().zip(&at_once.warnings).map(|(n, text)| text.contains(&format!("{n} images"))).collect();
        assert_eq!(warned, [true, true], "{:?}", at_once.warnings);

        // The next batch starts with the number of images at which this one ended.
        let mut sizes = Vec::new();
        assert_eq!(at_once.halving(3, with_room(2, &mut sizes)).expect("as before"), [0..2, 2..3]);
        assert_eq!((sizes, at_once.warnings.len()), (vec![2, 2], 2));
    }

    #[test]
    fn a_failure_after_some_images_starts_again_with_the_first() {
        let (mut at_once, mut n_calls) = (AtOnce::new(4), 0);
        let found = at_once.halving(8, |images, size| {
            n_calls += 1;
            if n_calls == 2 { Err(failed("CUDA out of memory")) } else { Ok((images.start, size)) }
        });
        assert_eq!(found.expect("only one call fails"), [(0, 2), (2, 2), (4, 2), (6, 2)]);
    }

    #[test]
    fn one_image_without_room_and_any_other_failure_are_errors() {
        let (mut at_once, mut sizes) = (AtOnce::new(4), Vec::new());
        assert!(at_once.halving(4, with_room(0, &mut sizes)).is_err());
        assert_eq!(sizes, [4, 2, 1]);
        let mut at_once = AtOnce::new(4);
        let found: Result<Vec<()>, _> = at_once.halving(4, |_, _| Err(failed("shapes cannot be multiplied")));
        assert!(found.is_err() && at_once.warnings.is_empty(), "{:?}", at_once.warnings);
    }

    #[test]
    fn prompts_cannot_take_the_names_of_the_tables_own_columns() {
        let prompts = |column: &str| vec![Prompt { column: column.to_owned(), question: "Is it sharp?".to_owned() }];
        for column in RESERVED_COLUMNS {
            let error = checked(prompts(column)).expect_err("the name is taken");
            assert!(error.to_string().contains("other than the table's own columns"), "{error}");
        }
        assert_eq!(checked(prompts("sharp")).expect("a name of its own"), prompts("sharp"));
    }
}
