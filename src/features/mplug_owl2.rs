//! `mplug-owl2`: embeddings of an image under prompts, such as the paper's `f_a` and `f_b`. Each prompt fills one
//! column.
//!
//! The user provides the weights: a folder with the released checkpoint, or another checkpoint of its layout.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::embedder::{Setup, load_error};
use super::extractor::column;
use super::{
    CommonSettings, Dtype, ExtractError, ExtractorKind, ExtractorName, FeatureSets, FeatureSettingsError, Precision,
};
use crate::engine::Loaded;
use agiqa_images::RgbImage8;
use agiqa_nets::checkpoint::Checkpoint;
use agiqa_nets::mplug_owl2::{self, Frontend, MplugOwl2, Prompt, PromptIds};
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
    setup: Setup,
}

/// Its own settings that decide the numbers, as written to `extractor.json`.
#[derive(Serialize)]
struct Deciding<'a> {
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
        let frontend = Frontend::read(&folder).map_err(load_error(NAME))?;
        let ids: Vec<PromptIds> = prompts.iter().map(|prompt| PromptIds::of(prompt, &frontend.tokenizer)).collect();
        if let Some((prompt, ids)) = prompts.iter().zip(&ids).find(|(_, ids)| ids.before.len() > MAX_PROMPT_TOKENS) {
            let problem = format!("{} tokens are over the limit of {MAX_PROMPT_TOKENS}", ids.before.len());
            return Err(FeatureSettingsError::Value { key: "prompts", found: prompt.column.clone(), problem }.into());
        }
        let checkpoint = Checkpoint::open(&folder).map_err(load_error(NAME))?;
        let weights_blake3 = agiqa_weights::hash_of_files(&mplug_owl2::files(&folder, &checkpoint));
        let weights_blake3 = weights_blake3.map_err(load_error(NAME))?;
        let setup = Setup::new(NAME, CODE_VERSION, options.dtype, common, weights_blake3);
        Ok(Self { folder, frontend, prompts, ids, setup })
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

impl ExtractorKind for MplugOwl2Settings {
    fn feature_sets(&self) -> FeatureSets {
        let described =
            |(prompt, ids): (&'_ Prompt, &PromptIds)| (prompt.column.clone(), prompt.text(), self.n_tokens(ids));
        let described: Vec<_> = self.prompts.iter().zip(&self.ids).map(described).collect();
        let prompts = described
            .iter()
            .map(|(column, text, n_tokens)| DescribedPrompt { column, text: text.clone(), n_tokens: *n_tokens })
            .collect();
        let deciding = Deciding {
            side_px: self.frontend.preprocessing.side_px,
            precision: self.setup.precision,
            pooling: "mean over all positions of the last hidden states",
            prompts,
        };
        let dim = self.frontend.config.decoder.dim as usize;
        let columns = self.prompts.iter().map(|prompt| column(&prompt.column, dim)).collect();
        let resize = "padded to a square, Pillow bicubic";
        let semantic = self.setup.set(FeatureKind::Semantic, resize, deciding, columns);
        FeatureSets { semantic: Some(semantic), quality: None }
    }

    fn load(&self) -> Result<Loaded, ExtractError> {
        let (device, kind) = self.setup.place()?;
        let checkpoint = Checkpoint::open(&self.folder).map_err(load_error(NAME))?;
        let network = MplugOwl2::new(&checkpoint, &self.frontend.config, &self.ids, device, kind);
        let network = network.map_err(load_error(NAME))?;
        // Every released checkpoint has the output head and the tables of rotary frequencies.
        let is_known = |name: &&str| *name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq");
        let unread = self.setup.unread(checkpoint.unused().into_iter().filter(|name| !is_known(name)));
        let preprocessing = self.frontend.preprocessing.clone();
        let (side, normalisation) = (i64::from(preprocessing.side_px), preprocessing.normalisation(device));
        let square = move |image: &RgbImage8| preprocessing.resized(image).pixels;
        let frame = self.setup.frame(device, [CPU_BATCH_SIZE, GPU_BATCH_SIZE], unread, square);
        let columns = move |levels: &Tensor, n_images: usize| {
            let pixels = normalisation.forward(&levels.view([-1, side, side, 3])); // (b, 3, s, s)
            Tensor::cat(&network.embed_first(&pixels, n_images as i64), 1)
        };
        // The tokens of all prompts together.
        let n_tokens: i64 = self.ids.iter().map(|ids| self.n_tokens(ids)).sum();
        let n_tokens = u32::try_from(n_tokens).unwrap_or(u32::MAX);
        Ok(self.setup.network(&self.feature_sets(), frame, n_tokens, columns))
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
