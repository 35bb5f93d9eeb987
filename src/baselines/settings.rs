//! What a user chooses about baselines, and what of it decides a method's scores.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::MAX_PART_ROWS;
use agiqa_handcrafted::{Method, ParamsError, ParamsFile};
use agiqa_images::{DECODER_VERSION, DecodeLimits};
use agiqa_store::identity::Fingerprint;
use agiqa_store::path_text;
use agiqa_store::store::shard::Shard;
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::scores::{Direction, ScoreSet, ScorerKind};
use agiqa_weights::params_folder;

/// Settings of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaselineSettings {
    /// The methods; default: all.
    pub methods: Vec<Method>,
    /// Folder with the published parameter files; default: `iqa-params` in the weights folder.
    #[serde(with = "path_text::optional")]
    pub params: Option<PathBuf>,
    /// Side of the square that images are resized to, bilinear, before anything else; default: as they are.
    pub side: Option<u32>,
    /// Images with more pixels are rejected before they are decoded.
    pub max_pixels: u64,
    /// Score just this share of the images, `k/N`.
    pub shard: Shard,
    /// Try again what an earlier run of the same method and settings rejected.
    pub retry_rejects: bool,
    /// Scores at which a part is written.
    pub part_rows: NonZeroUsize,
    /// Seconds after which a part is written even when it has fewer scores; a kill loses at most about this much work.
    pub part_secs: u64,
}

impl Default for BaselineSettings {
    fn default() -> Self {
        Self {
            methods: Method::ALL.to_vec(),
            params: None,
            side: None,
            max_pixels: DecodeLimits::default().max_pixels,
            shard: Shard::WHOLE,
            retry_rejects: false,
            part_rows: NonZeroUsize::new(4096).expect("not zero"),
            part_secs: 60,
        }
    }
}

/// Sides that images may be resized to.
const SIDES_PX: std::ops::RangeInclusive<u32> = 32..=4096;

/// What keeps a baseline stage as a whole from working.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// No method is named.
    #[error("no method is named: expected some of brisque, niqe, ilniqe")]
    NoMethods,
    /// The same method is named twice.
    #[error("duplicate method `{0}`")]
    MethodTwice(Method),
    /// A side that makes no sense.
    #[error("`side = {found}`: expected {} to {} pixels", SIDES_PX.start(), SIDES_PX.end())]
    Side {
        /// The value.
        found: u32,
    },
    /// More rows in a part than memory should hold.
    #[error("`part_rows = {found}`: expected 1 to {MAX_PART_ROWS}")]
    PartRows {
        /// The value.
        found: usize,
    },
    /// A parameter file cannot be used.
    #[error(transparent)]
    Params(#[from] ParamsError),
}

/// What decides a method's scores, as it stands in `scorer.json`.
#[derive(Serialize)]
struct Description {
    method: Method,
    code_version: u32,
    /// BLAKE3 per parameter file.
    params_blake3: Vec<(&'static str, String)>,
    decoder_version: u32,
    /// `none`, or what the image is resized to and how.
    resize: String,
}

impl BaselineSettings {
    /// Refuses settings that make no sense; looks at no file.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn check(&self) -> Result<(), BaselineError> {
        if self.methods.is_empty() {
            return Err(BaselineError::NoMethods);
        }
        let twice = self.methods.iter().enumerate().find(|(index, method)| self.methods[..*index].contains(method));
        if let Some((_, method)) = twice {
            return Err(BaselineError::MethodTwice(*method));
        }
        if self.part_rows.get() > MAX_PART_ROWS {
            return Err(BaselineError::PartRows { found: self.part_rows.get() });
        }
        match self.side {
            Some(found) if !SIDES_PX.contains(&found) => Err(BaselineError::Side { found }),
            _ => Ok(()),
        }
    }

    /// The folder with the parameter files.
    pub(super) fn params_folder(&self) -> PathBuf {
        self.params.clone().unwrap_or_else(params_folder)
    }

    /// The score set that `method` fills: reads its parameter files to hash them.
    ///
    /// # Errors
    /// Parameter files that cannot be read.
    pub fn score_set(&self, method: Method) -> Result<ScoreSet, ParamsError> {
        let folder = self.params_folder();
        let hash = |file: &&'static str| {
            let bytes = ParamsFile::read(&folder, file)?.bytes;
            Ok::<_, ParamsError>((*file, blake3::hash(&bytes).to_hex().to_string()))
        };
        let description = Description {
            method,
            code_version: method.code_version(),
            params_blake3: method.files().iter().map(hash).collect::<Result<_, ParamsError>>()?,
            decoder_version: DECODER_VERSION,
            resize: self.side.map_or_else(|| "none".to_owned(), |side| format!("bilinear to {side} × {side}")),
        };
        let settings = serde_json::to_value(description).expect("a description is plain data");
        Ok(ScoreSet {
            scorer: PartitionName::new(method.as_str()).expect("the names of methods are valid"),
            kind: ScorerKind::Method,
            fingerprint: Fingerprint::builder("baseline").json("settings", &settings).finish(),
            direction: Direction::Lower,
            settings,
        })
    }
}
