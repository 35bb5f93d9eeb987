//! Reading the published parameter files, and their errors.

use std::path::{Path, PathBuf};

use agiqa_matlab::MatError;

/// Why a parameter file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParamsError {
    /// The file does not exist.
    #[error("no parameter file `{}`{}", path.display(), hint(path))]
    Missing { path: PathBuf },
    /// The file cannot be read.
    #[error("cannot read parameter file `{}`", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file's content does not fit its name.
    #[error("`{}`: {place}: expected {expected}, found {found}; {next_step}", path.display())]
    Content {
        path: PathBuf,
        /// Line, variable or byte.
        place: String,
        expected: String,
        found: String,
        next_step: &'static str,
    },
}

/// How to get the file at `path`, by its name.
fn hint(path: &Path) -> String {
    let weights = path.file_name().and_then(|name| agiqa_weights::of_file(Path::new(name)));
    weights.map(|weights| format!("\nhint: {}", weights.how_to_get())).unwrap_or_default()
}

/// Advice for a damaged or wrong file.
pub(super) const GET_AGAIN: &str = "get the published file again";

/// One parameter file with its whole content.
pub struct ParamsFile {
    /// Its path.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Largest parameter file that is read. The largest published one has 3 MB.
const MAX_BYTES: u64 = 64 << 20;

impl ParamsFile {
    /// Reads `name` in `folder`.
    pub fn read(folder: &Path, name: &str) -> Result<Self, ParamsError> {
        let path = folder.join(name);
        let unreadable = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => ParamsError::Missing { path: path.clone() },
            _ => ParamsError::Unreadable { path: path.clone(), source },
        };
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            let reason = format!("expected a file of at most {MAX_BYTES} bytes");
            return Err(unreadable(std::io::Error::other(reason)));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        Ok(Self { path, bytes })
    }

    /// An error about this file's content.
    pub(super) fn wrong(
        &self,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> ParamsError {
        ParamsError::Content {
            path: self.path.clone(),
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
            next_step: GET_AGAIN,
        }
    }

    /// An error of MATLAB's format in this file.
    pub(super) fn not_matlab(&self, error: MatError) -> ParamsError {
        let MatError { place, expected, found, next_step } = error;
        let path = self.path.clone();
        ParamsError::Content { path, place, expected, found, next_step: next_step.unwrap_or(GET_AGAIN) }
    }

    /// The content as text.
    pub(super) fn text(&self) -> Result<&str, ParamsError> {
        std::str::from_utf8(&self.bytes)
            .map_err(|error| self.wrong(format!("byte {}", error.valid_up_to()), "text", "bytes that are not UTF-8"))
    }
}
