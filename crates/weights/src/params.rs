//! Parameter files of handcrafted methods. They are small, come in archives with the authors' MATLAB code, and are
//! placed by hand, all in one folder. The hashes identify the files that the reference values were computed with.

use std::path::{Path, PathBuf};

/// The parameter files of one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// The method's name.
    pub name: &'static str,
    /// The authors' release.
    pub release: &'static str,
    /// Address of the release, from the authors' papers and read-me files.
    pub url: &'static str,
    /// The authors' terms of use.
    pub licence: &'static str,
    /// Commands that read it.
    pub used_by: &'static [&'static str],
    /// The files.
    pub files: &'static [File],
}

/// One parameter file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name in the folder.
    pub name: &'static str,
    /// Its name in the release.
    pub released_as: &'static str,
    /// Its format.
    pub format: &'static str,
    /// Its size.
    pub n_bytes: u64,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: &'static str,
}

/// Parameters of BRISQUE.
pub static BRISQUE: Params = Params {
    name: "brisque",
    release: "BRISQUE_release.zip",
    url: "http://live.ece.utexas.edu/research/quality/BRISQUE_release.zip",
    licence: "free for any use with its copyright notice (The University of Texas at Austin)",
    used_by: &["baseline"],
    files: &[
        File {
            name: "brisque_allmodel",
            released_as: "allmodel",
            format: "libsvm model, text",
            n_bytes: 353_497,
            blake3: "07e2af87d1a0a3fb7195beea2b9683bdc8074306dbd682c8360c2723f0c6cbcb",
        },
        File {
            name: "brisque_allrange",
            released_as: "allrange",
            format: "ranges of libsvm's svm-scale, text",
            n_bytes: 741,
            blake3: "b233c1ea0826f4cca30dc960189aed63b29d6e2c70d86edd31f7ee54675e5575",
        },
    ],
};

/// Parameters of NIQE.
pub static NIQE: Params = Params {
    name: "niqe",
    release: "niqe_release.zip",
    url: "http://live.ece.utexas.edu/research/quality/niqe_release.zip",
    licence: "free for any use with its copyright notice (The University of Texas at Austin)",
    used_by: &["baseline"],
    files: &[File {
        name: "niqe_modelparameters.mat",
        released_as: "modelparameters.mat",
        format: "MATLAB v5",
        n_bytes: 8347,
        blake3: "98f6408b96582b279c93aa53216a921506489e7a51ed4ee7585bfd2d03b54940",
    }],
};

/// Parameters of ILNIQE.
pub static ILNIQE: Params = Params {
    name: "ilniqe",
    release: "ILNIQE.zip",
    url: "http://www4.comp.polyu.edu.hk/~cslzhang/IQA/ILNIQE/ILNIQE.htm",
    licence: "see its page and read-me",
    used_by: &["baseline"],
    files: &[File {
        name: "ilniqe_templateModel.mat",
        released_as: "templateModel.mat",
        format: "MATLAB v5",
        n_bytes: 2_764_281,
        blake3: "beeebc9c0b8cd48c72216946b984b7ef9e5e660cc8bc414f7ed742532f8eb76e",
    }],
};

/// Parameters of all methods.
pub static ALL: [&Params; 3] = [&BRISQUE, &NIQE, &ILNIQE];

/// A parameter file that differs from its description here.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParamsFileError {
    /// It is absent.
    #[error("parameters `{}`: {} is absent\nhint: {}", params.name, path.display(), params.how_to_get())]
    Absent { params: &'static Params, path: PathBuf },
    /// It has another content.
    #[error(
        "parameters `{}`: {}: expected {} ({} bytes, BLAKE3 {}), found {found_bytes} bytes of {found}: the file is \
         damaged or of another release\nhint: {}",
        params.name, path.display(), file.format, file.n_bytes, file.blake3, params.how_to_get()
    )]
    Content { params: &'static Params, file: &'static File, path: PathBuf, found_bytes: usize, found: String },
    /// It cannot be read.
    #[error("parameters `{}`: cannot read {}", params.name, path.display())]
    Unreadable {
        params: &'static Params,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Default folder of `agiqa baseline`: `iqa-params` in the weights folder.
pub fn folder() -> PathBuf {
    super::folder().join("iqa-params")
}

/// The parameters called `name`.
pub fn find(name: &str) -> Option<&'static Params> {
    ALL.into_iter().find(|params| params.name == name)
}

/// The parameters with a file called `file`.
pub fn of_file(file: &str) -> Option<&'static Params> {
    ALL.into_iter().find(|params| params.files.iter().any(|candidate| candidate.name == file))
}

impl Params {
    /// Size of all its files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.n_bytes).sum()
    }

    /// The download's address and the folder to put the files into, in words.
    pub fn how_to_get(&self) -> String {
        let files: Vec<String> = self
            .files
            .iter()
            .map(|file| format!("`{}` as `{}` ({} bytes)", file.released_as, file.name, file.n_bytes))
            .collect();
        format!(
            "get {} from {}, put its {} into {} or a folder of yours (`--params DIR`, in a pipeline `params = \"DIR\"` \
             under `[baseline]`); `agiqa weights verify {}` checks what is in the former",
            self.release,
            self.url,
            files.join(" and "),
            folder().display(),
            self.name
        )
    }

    /// Whether any of its files is in `folder`.
    pub fn is_in(&self, folder: &Path) -> bool {
        self.files.iter().any(|file| folder.join(file.name).exists())
    }

    /// Checks that its files are in `folder` and have the expected hashes.
    ///
    /// # Errors
    /// The first file that is absent, unreadable or different. The message says how to get it.
    pub fn check(&'static self, folder: &Path) -> Result<(), ParamsFileError> {
        for file in self.files {
            let path = folder.join(file.name);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(ParamsFileError::Absent { params: self, path });
                }
                Err(source) => return Err(ParamsFileError::Unreadable { params: self, path, source }),
            };
            let found = blake3::hash(&bytes).to_hex().to_string();
            if found != file.blake3 {
                return Err(ParamsFileError::Content { params: self, file, path, found_bytes: bytes.len(), found });
            }
        }
        Ok(())
    }
}
