//! `mplug-owl2`: embeddings of an image under prompts, such as the paper's `f_a` and `f_b`. Each prompt fills one
//! column.
//!
//! The user provides the weights: a folder with the released checkpoint, or another checkpoint of its layout.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::extractor::{Precise, Precision, column, columns_of, described_set, device_memory, guarded, hash_of_files};
use super::{
    CommonSettings, DeviceChoice, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError,
};
use crate::engine::{
    Batch, BatchSize, DeviceMemory, GuestError, Input, Launched, Loaded, Network, OutputRows, Preprocessor, Unusable,
    Values,
};
use agiqa_images::{DECODER_VERSION, RgbImage8};
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::device::{Normalisation, placed};
use agiqa_nets::mplug_owl2::{Frontend, MplugOwl2, Preprocessing, Prompt, PromptIds};
use agiqa_store::path_text;
use agiqa_store::tables::features::FeatureKind;
use agiqa_weights::Effort;

const NAME: ExtractorName = ExtractorName::MplugOwl2;

/// Version of this file and the network, raised if numbers change. It is part of the fingerprint.
const CODE_VERSION: u32 = 2;

/// Default number of images per batch on a CPU. It gives enough rows for the language model's products to run at their
/// full rate.
const CPU_BATCH_SIZE: usize = 8;

/// Default number of images per batch on a GPU, if they fit next to the weights.
const GPU_BATCH_SIZE: usize = 64;

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
    /// Number type of the network, `f32`, `bf16` or `f16`. It decides the numbers. Default: `f32` on a CPU, `f16` on a GPU.
    pub dtype: Option<Dtype>,
}

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct MplugOwl2Settings {
    folder: PathBuf,
    frontend: Frontend,
    prompts: Vec<Prompt>,
    ids: Vec<PromptIds>,
    precise: Precise,
    device: DeviceChoice,
    batch_size: Option<usize>,
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
            precise: Precise::new(NAME, options.dtype, common.device),
            device: common.device,
            batch_size: common.batch_size.map(std::num::NonZeroUsize::get),
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
            precision: self.precise.precision,
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
        let dtype = self.precise.precision.dtype;
        dtype.check_on(device)?;
        let checkpoint = Checkpoint::open(&self.folder).map_err(load_error)?;
        let network = MplugOwl2::new(&checkpoint, &self.frontend.config, &self.ids, device, dtype.kind());
        let n_tokens: i64 = self.ids.iter().map(|ids| self.n_tokens(ids)).sum();
        Ok(Loaded::Network(Box::new(MplugOwl2Extractor {
            network: network.map_err(load_error)?,
            unused: checkpoint.unused().into_iter().map(str::to_owned).collect(),
            device,
            batch_size: BatchSize::of(
                self.batch_size,
                if device == Device::Cpu { CPU_BATCH_SIZE } else { GPU_BATCH_SIZE },
            ),
            widths: vec![self.frontend.config.decoder.dim as usize; self.prompts.len()],
            normalisation: self.frontend.preprocessing.normalisation(device),
            note: self.precise.note.clone(),
            n_tokens: u32::try_from(n_tokens).unwrap_or(u32::MAX),
            preprocessor: Arc::new(Squares { preprocessing: self.frontend.preprocessing.clone() }),
        })))
    }
}

/// Pads and resizes as the published code does. The network normalises on its device.
struct Squares {
    preprocessing: Preprocessing,
}

impl Preprocessor for Squares {
    fn prepare(&self, image: &RgbImage8) -> Result<Input, Unusable> {
        let side = i64::from(self.preprocessing.side_px);
        Ok(Input { values: Values::U8(self.preprocessing.resized(image).pixels), shape: vec![side, side, 3] })
    }
}

/// The loaded network.
struct MplugOwl2Extractor {
    network: MplugOwl2,
    unused: Vec<String>,
    device: Device,
    batch_size: BatchSize,
    /// Number of values of each column.
    widths: Vec<usize>,
    /// Number of tokens of all prompts together.
    n_tokens: u32,
    normalisation: Normalisation,
    note: Option<String>,
    preprocessor: Arc<Squares>,
}

impl MplugOwl2Extractor {
    /// The embeddings of a batch, prompts side by side, `(n_images, Σ d)`. Panics if torch fails, as tch's methods do.
    fn embeddings(&self, batch: &Batch<'_>) -> Result<Tensor, tch::TchError> {
        let _no_grad = tch::no_grad_guard();
        let pixels = placed(batch.values.as_u8(), &batch.whole_shape(), self.device)?; // (b, s, s, 3)
        let pixels = self.normalisation.forward(&pixels); // (b, 3, s, s)
        Ok(Tensor::cat(&self.network.embed_first(&pixels, batch.n_images as i64), 1))
    }
}

impl Network for MplugOwl2Extractor {
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

    fn notes(&self) -> Vec<String> {
        // Every released checkpoint has the output head and the tables of rotary frequencies.
        let is_known = |name: &&String| name.as_str() == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        let unknown: Vec<&str> = self.unused.iter().filter(|name| !is_known(name)).map(String::as_str).collect();
        let n = unknown.len();
        let unknown =
            (n > 0).then(|| format!("{n} tensors of the checkpoint are not read by `{NAME}`: {}", unknown.join(", ")));
        unknown.into_iter().chain(self.note.clone()).collect()
    }

    fn launch(&mut self, batch: &Batch<'_>) -> Result<Launched, GuestError> {
        let matrix = guarded(NAME, batch.n_images, || self.embeddings(batch))?;
        let n_tokens = self.n_tokens;
        let rows = move |columns| vec![OutputRows::Vectors { columns, n_tokens }];
        Ok(columns_of(NAME, &matrix, batch.n_images, self.widths.clone(), rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
