//! The files of a folder: possible images, files that are left out with the reason, and unreadable folders.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

/// Why a file or folder below an image folder is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The content is not an image.
    NotAnImage,
    /// The name begins with a dot.
    Hidden,
    /// A file or folder that an operating system or a program keeps for itself.
    System,
    /// A link to nothing.
    DanglingLink,
    /// A link that leads to itself, or a folder's link to a folder that contains it.
    LinkCycle,
    /// A link to a folder whose files are reached by another path.
    SecondPath,
    /// A pipe, socket or device.
    Special,
}

impl Reason {
    /// The reason in words, to be followed by names.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotAnImage => "not an image",
            Self::Hidden => "hidden",
            Self::System => "of the system",
            Self::DanglingLink => "dangling link",
            Self::LinkCycle => "link cycle",
            Self::SecondPath => "link to a folder of which the files are here already",
            Self::Special => "not a regular file",
        }
    }
}

/// A file that is left out, or a folder with all its files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// The reason.
    pub reason: Reason,
    /// Its path.
    pub path: PathBuf,
    /// Number of files.
    pub n_files: u64,
}

/// The files below a folder.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that may be images, sorted. Their contents have not been looked at.
    pub files: Vec<PathBuf>,
    /// What is left out.
    pub left_out: Vec<LeftOut>,
    /// Files and folders that cannot be read, with the cause.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// A folder that cannot be searched.
#[derive(Debug, thiserror::Error)]
#[error("cannot search image folder `{}`", folder.display())]
pub struct FindError {
    folder: PathBuf,
    source: io::Error,
}

/// Files and folders that file managers, file systems and archives leave behind. Those with a dot are hidden anyway.
const SYSTEM_NAMES: [&str; 9] = [
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "@eaDir",
    "#recycle",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
];

/// Finds the files below `folder`. Their names and links decide which of them are left out. `folder` itself may have any
/// name.
///
/// Links are followed. A linked folder is searched once, and not at all if it contains `folder` or lies in it.
///
/// # Errors
/// `folder` itself cannot be read. A folder inside it that cannot be read is listed in [`Found::unreadable`].
pub fn find(folder: &Path) -> Result<Found, FindError> {
    let error = |source| FindError { folder: folder.to_owned(), source };
    let top = folder.canonicalize().map_err(error)?;
    std::fs::read_dir(&top).map_err(error)?;
    let searched = HashSet::from([top.clone()]);
    let mut search = Search { found: Found::default(), top, searched, waiting: VecDeque::new() };
    search.below(folder);
    while let Some(linked) = search.waiting.pop_front() {
        search.below(&linked);
    }
    let mut found = search.found;
    found.files.sort();
    found.left_out.sort();
    found.unreadable.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

struct Search {
    found: Found,
    /// Real path of the folder.
    top: PathBuf,
    /// Real paths of the folders whose files have been or will be reached.
    searched: HashSet<PathBuf>,
    /// Links to folders that are not searched yet.
    waiting: VecDeque<PathBuf>,
}

impl Search {
    fn below(&mut self, folder: &Path) {
        let mut entries = WalkDir::new(folder).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(folder).to_owned();
                    self.found.unreadable.push((path, error.into()));
                    continue;
                }
            };
            if let Some(reason) = reason_of_name(&entry) {
                self.leave_out(reason, entry.path(), n_files(&entry));
                if entry.file_type().is_dir() {
                    entries.skip_current_dir();
                }
            } else if entry.path_is_symlink() {
                self.follow(entry.path());
            } else if entry.file_type().is_file() {
                self.found.files.push(entry.into_path());
            } else if !entry.file_type().is_dir() {
                self.leave_out(Reason::Special, entry.path(), 1);
            }
        }
    }

    fn follow(&mut self, link: &Path) {
        let target = link.metadata().and_then(|metadata| Ok((metadata, link.canonicalize()?)));
        match target {
            Ok((metadata, target)) if metadata.is_dir() => {
                let place = link.parent().and_then(|parent| parent.canonicalize().ok()).unwrap_or_default();
                if place.starts_with(&target) || self.top.starts_with(&target) {
                    self.leave_out(Reason::LinkCycle, link, 1);
                } else if self.searched.iter().any(|folder| target.starts_with(folder)) {
                    self.leave_out(Reason::SecondPath, link, 1);
                } else {
                    self.searched.insert(target);
                    self.waiting.push_back(link.to_owned());
                }
            }
            Ok((metadata, _)) if metadata.is_file() => self.found.files.push(link.to_owned()),
            Ok(_) => self.leave_out(Reason::Special, link, 1),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    self.leave_out(Reason::DanglingLink, link, 1);
                }
                _ if error.raw_os_error() == Some(ELOOP) => self.leave_out(Reason::LinkCycle, link, 1),
                _ => self.found.unreadable.push((link.to_owned(), error)),
            },
        }
    }

    fn leave_out(&mut self, reason: Reason, path: &Path, n_files: u64) {
        self.found.left_out.push(LeftOut { reason, path: path.to_owned(), n_files });
    }
}

/// `ErrorKind::FilesystemLoop` is not stable yet.
const ELOOP: i32 = 40;

fn reason_of_name(entry: &DirEntry) -> Option<Reason> {
    let name = entry.file_name().as_encoded_bytes();
    let is_system = SYSTEM_NAMES.iter().any(|entry| entry.as_bytes().eq_ignore_ascii_case(name));
    match name {
        _ if is_system => Some(Reason::System),
        [b'.', ..] => Some(Reason::Hidden),
        _ => None,
    }
}

/// 1 for a file. For a folder, the number of files below it that can be seen, without following links.
fn n_files(entry: &DirEntry) -> u64 {
    let below = WalkDir::new(entry.path()).into_iter().flatten();
    below.filter(|entry| !entry.file_type().is_dir()).count() as u64
}
