//! `mplug-owl2`: embeddings of an image under prompts, a column each; the paper's `f_a` and `f_b`.
//!
//! The weights are the user's: a folder with the released checkpoint, or another of its layout.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tch::{Device, Tensor};

use super::extractor::{guarded, values};
use super::{
    BatchFeatures, DeviceChoice, Dtype, ExtractError, Extractor, ExtractorKind, ExtractorName, FeatureSets,
    FeatureSettings, Preprocessor, SetFeatures, SettingsError, Unusable,
};
use crate::identity::Fingerprint;
use crate::images::{DECODER_VERSION, RgbImage8};
use crate::models::checkpoint::Checkpoint;
use crate::models::mplug_owl2::{Frontend, MplugOwl2, Preprocessing, Prompt, PromptIds};
use crate::tables::PartitionName;
use crate::tables::features::{FeatureKind, FeatureSet, VectorColumn};
use crate::weights::{self, by_hand::MPLUG_OWL2};

const NAME: ExtractorName = ExtractorName::MplugOwl2;

/// Counts changes of this file or of the network that change numbers; part of the fingerprint.
const CODE_VERSION: u32 = 2;

/// Default images per batch: enough rows for the language model's products to run at their full rate.
const BATCH_SIZE: usize = 8;

/// Most prompts; each is a column, and costs as much as an image's language part.
const MAX_PROMPTS: usize = 64;

/// Longest text of a prompt in tokens, before the image.
const MAX_PROMPT_TOKENS: usize = 2048;

/// Checked settings of the extractor.
#[derive(Clone, Debug)]
pub struct MplugOwl2Settings {
    folder: PathBuf,
    frontend: Frontend,
    prompts: Vec<Prompt>,
    ids: Vec<PromptIds>,
    dtype: Dtype,
    device: DeviceChoice,
    batch_size: usize,
    weights_blake3: String,
}

/// What decides the numbers, as it stands in `extractor.json`.
#[derive(Serialize)]
struct Description<'a> {
    extractor: ExtractorName,
    code_version: u32,
    /// Of the tensor files, configuration, tokenizer and preprocessor.
    weights_blake3: &'a str,
    decoder_version: u32,
    resize: &'a str,
    side_px: u32,
    dtype: Dtype,
    pooling: &'a str,
    prompts: Vec<DescribedPrompt<'a>>,
}

#[derive(Serialize)]
struct DescribedPrompt<'a> {
    column: &'a str,
    text: String,
    /// Positions that the embedding is the mean over.
    n_tokens: i64,
}

fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> ExtractError {
    ExtractError::Load { extractor: NAME, source: Box::new(source) }
}

impl MplugOwl2Settings {
    /// Checks `settings`: reads the folder's small files and hashes all that decide the numbers (once: see
    /// [`weights::hash_of_file`]). Without `weights`, the folder is that of the weights folder.
    ///
    /// # Errors
    /// A folder that is absent, lacks files, or holds another network; prompts that make no columns.
    pub fn new(settings: &FeatureSettings) -> Result<Self, ExtractError> {
        let folder = settings.weights.clone().unwrap_or_else(|| MPLUG_OWL2.folder());
        let prompts = checked(settings.prompts.clone().unwrap_or_else(Prompt::of_the_paper))?;
        MPLUG_OWL2.check(&folder)?;
        let frontend = Frontend::read(&folder).map_err(load_error)?;
        if let Some(side) = settings.side {
            let problem =
                format!("the weights of `{NAME}` are for {} px; leave it out", frontend.config.vision.image_px);
            return Err(SettingsError::Value { key: "side", found: side.to_string(), problem }.into());
        }
        let ids: Vec<PromptIds> = prompts.iter().map(|prompt| PromptIds::of(prompt, &frontend.tokenizer)).collect();
        if let Some((prompt, ids)) = prompts.iter().zip(&ids).find(|(_, ids)| ids.before.len() > MAX_PROMPT_TOKENS) {
            let problem = format!("{} tokens are over the limit of {MAX_PROMPT_TOKENS}", ids.before.len());
            return Err(SettingsError::Value { key: "prompts", found: prompt.column.clone(), problem }.into());
        }
        let weights_blake3 = content_hash(&folder)?;
        Ok(Self {
            folder,
            frontend,
            prompts,
            ids,
            dtype: settings.dtype.unwrap_or_default(),
            device: settings.device,
            batch_size: settings.batch_size.map_or(BATCH_SIZE, std::num::NonZeroUsize::get),
            weights_blake3,
        })
    }

    fn n_tokens(&self, ids: &PromptIds) -> i64 {
        (ids.before.len() + ids.after.len()) as i64 + self.frontend.config.n_visual_tokens()
    }
}

/// Refuses prompts that make no table.
fn checked(prompts: Vec<Prompt>) -> Result<Vec<Prompt>, SettingsError> {
    let wrong =
        |found: &str, problem: String| Err(SettingsError::Value { key: "prompts", found: found.to_owned(), problem });
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        return wrong(&format!("{} prompts", prompts.len()), format!("expected 1 to {MAX_PROMPTS}"));
    }
    for (i, prompt) in prompts.iter().enumerate() {
        let column = &prompt.column;
        let is_name = column.starts_with(|c: char| c.is_ascii_lowercase())
            && column.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || ["image_id", "n_tokens"].contains(&column.as_str()) {
            let problem = "expected a column name of small letters, digits and `_`, and none that the table has anyway";
            return wrong(column, problem.to_owned());
        }
        if prompts[..i].iter().any(|other| other.column == *column) {
            return wrong(column, "the column is there twice".to_owned());
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
    let tokenizer = ["tokenizer.model", "tokenizer.json"].iter().find(|name| folder.join(name).exists());
    files.extend(["config.json", "preprocessor_config.json"].iter().chain(tokenizer).map(|name| folder.join(name)));
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let hash = weights::hash_of_file(&path).map_err(load_error)?;
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0").update(hash.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
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
            dtype: self.dtype,
            pooling: "mean over all positions of the last hidden states",
            prompts,
        };
        let settings = serde_json::to_value(description).expect("a description is plain data");
        let kind = FeatureKind::Semantic;
        let fingerprint = Fingerprint::builder("extractor").json("table", &kind).json("settings", &settings).finish();
        let dim = self.frontend.config.decoder.dim as usize;
        let columns = self.prompts.iter().map(|prompt| VectorColumn { name: prompt.column.clone(), dim }).collect();
        let extractor = PartitionName::new(NAME.as_str()).expect("the names of extractors are valid");
        FeatureSets { semantic: Some(FeatureSet { extractor, fingerprint, kind, columns, settings }), quality: None }
    }

    fn load(&self) -> Result<Box<dyn Extractor>, ExtractError> {
        let device = self.device.device()?;
        self.dtype.check_on(device)?;
        let checkpoint = Checkpoint::open(&self.folder).map_err(load_error)?;
        let network = MplugOwl2::new(&checkpoint, &self.frontend.config, &self.ids, device, self.dtype.kind());
        let n_tokens: i64 = self.ids.iter().map(|ids| self.n_tokens(ids)).sum();
        Ok(Box::new(MplugOwl2Extractor {
            network: network.map_err(load_error)?,
            unused: checkpoint.unused().into_iter().map(str::to_owned).collect(),
            device,
            batch_size: self.batch_size,
            n_at_once: self.batch_size,
            n_columns: self.prompts.len(),
            n_tokens: u32::try_from(n_tokens).unwrap_or(u32::MAX),
            preprocessor: Arc::new(Squares { preprocessing: self.frontend.preprocessing.clone() }),
            warnings: Vec::new(),
        }))
    }
}

/// Pads, resizes and normalises as the published code does.
struct Squares {
    preprocessing: Preprocessing,
}

impl Preprocessor for Squares {
    fn n_values(&self) -> usize {
        let side_px = self.preprocessing.side_px as usize;
        3 * side_px * side_px
    }

    fn prepare(&self, image: &RgbImage8, input: &mut [f32]) -> Result<(), Unusable> {
        self.preprocessing.prepare(image, input);
        Ok(())
    }
}

/// The loaded network.
struct MplugOwl2Extractor {
    network: MplugOwl2,
    unused: Vec<String>,
    device: Device,
    batch_size: usize,
    /// Images that the network gets at once: the batch's, until memory runs short.
    n_at_once: usize,
    n_columns: usize,
    /// Positions of all prompts together.
    n_tokens: u32,
    preprocessor: Arc<Squares>,
    warnings: Vec<String>,
}

impl MplugOwl2Extractor {
    /// Per column the embeddings of a batch. Panics where torch does, as tch's methods do.
    fn embeddings(&self, inputs: &[f32], n_images: usize) -> Vec<Vec<f32>> {
        let n_values = self.preprocessor.n_values();
        let side = i64::from(self.preprocessor.preprocessing.side_px);
        let mut columns = vec![Vec::new(); self.n_columns];
        // All calls are of one size, the last one padded, so that an image's numbers never depend on its neighbours.
        for start in (0..n_images).step_by(self.n_at_once) {
            let n_real = self.n_at_once.min(n_images - start);
            let end = (start + self.n_at_once).min(self.batch_size);
            let mut chunk = inputs[start * n_values..end * n_values].to_vec();
            chunk.resize(self.n_at_once * n_values, 0.0);
            let pixels = Tensor::from_slice(&chunk).view([self.n_at_once as i64, 3, side, side]);
            for (column, embedded) in columns.iter_mut().zip(self.network.embed_first(&pixels, n_real as i64)) {
                column.extend(values(&embedded));
            }
        }
        columns
    }
}

impl Extractor for MplugOwl2Extractor {
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
        // The output head and the tables of rotary frequencies are in every released checkpoint.
        let is_known = |name: &&String| name.as_str() == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        let unknown: Vec<&str> = self.unused.iter().filter(|name| !is_known(name)).map(String::as_str).collect();
        match unknown.len() {
            0 => Vec::new(),
            n => vec![format!("{n} tensors of the checkpoint are not read by `{NAME}`: {}", unknown.join(", "))],
        }
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn forward(&mut self, inputs: &[f32], n_images: usize) -> Result<BatchFeatures, ExtractError> {
        loop {
            match guarded(NAME, n_images, || self.embeddings(inputs, n_images)) {
                Ok(vectors) => {
                    let n_tokens = self.n_tokens;
                    return Ok(BatchFeatures { sets: vec![SetFeatures { vectors, n_tokens }] });
                }
                Err(ExtractError::Forward { source, .. })
                    if self.n_at_once > 1 && source.to_string().contains("out of memory") =>
                {
                    self.n_at_once = self.n_at_once.div_ceil(2);
                    self.warnings.push(format!(
                        "the device is out of memory: going on with {} images at once; `--batch-size {}` does so from the \
                         start",
                        self.n_at_once, self.n_at_once
                    ));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
