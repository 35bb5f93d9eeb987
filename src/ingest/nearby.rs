//! Files that a missing image's name may have meant: the same but for case, composition of characters, folders or
//! extension.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use unicode_normalization::UnicodeNormalization as _;

use agiqa_store::tables::rejects::RejectRow;

/// Greatest number of files that are looked at, and of missing names for which a resembling file is searched.
const MAX_FILES: usize = 200_000;
const N_RESEMBLING: usize = 20;
const MAX_RESEMBLING_FILES: usize = 5_000;

/// How a name differs from that of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    Case,
    Composition,
    /// The name has folders that the file does not lie in.
    MoreFolders,
    /// The file lies in folders that the name does not have.
    FewerFolders,
    NoExtension,
    OtherExtension,
    Letters,
}

impl Difference {
    /// The difference in words, between "the names differ from the files by" and what to do.
    fn words(self) -> &'static str {
        match self {
            Self::Case => "upper and lower case",
            Self::Composition => "the composition of characters (Unicode NFC or NFD)",
            Self::MoreFolders => "folders before the name; give `--images` the folder that they are in",
            Self::FewerFolders => "a missing folder; give `--images` the folder that holds the files",
            Self::NoExtension => "the missing extension",
            Self::OtherExtension => "the extension",
            Self::Letters => "some letters",
        }
    }
}

/// The files of a folder by what remains of their names without a difference.
struct Nearby {
    files: Vec<String>,
    by_path: HashMap<String, usize>,
    by_file_name: HashMap<String, usize>,
    by_stem: HashMap<String, usize>,
}

impl Nearby {
    fn of(folder: &Path) -> Self {
        let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
        let files = entries.filter(|entry| !entry.file_type().is_dir()).take(MAX_FILES);
        let below = |entry: walkdir::DirEntry| Some(entry.path().strip_prefix(folder).ok()?.to_str()?.to_owned());
        let files: Vec<String> = files.filter_map(below).collect();
        let mut nearby = Self { files, by_path: HashMap::new(), by_file_name: HashMap::new(), by_stem: HashMap::new() };
        for (at, file) in nearby.files.iter().enumerate() {
            let path = folded(file);
            let (name, stem) = (file_name(&path).to_owned(), without_extension(&path).to_owned());
            nearby.by_file_name.entry(name).or_insert(at);
            nearby.by_stem.entry(stem).or_insert(at);
            nearby.by_path.entry(path).or_insert(at);
        }
        nearby
    }

    /// The file that `name` may have meant.
    fn file(&self, name: &str) -> Option<(Difference, &str)> {
        let name = name.replace('\\', "/");
        let path = folded(&name);
        let found = |at: &usize| self.files[*at].as_str();
        if let Some(file) = self.by_path.get(&path).map(found) {
            let is_case = name.nfc().ne(file.nfc());
            return Some((if is_case { Difference::Case } else { Difference::Composition }, file));
        }
        if let Some(file) = self.by_file_name.get(file_name(&path)).map(found) {
            let has_more = name.matches('/').count() > file.matches('/').count();
            return Some((if has_more { Difference::MoreFolders } else { Difference::FewerFolders }, file));
        }
        if let Some(file) = self.by_stem.get(&path).map(found) {
            return Some((Difference::NoExtension, file));
        }
        let stem = without_extension(&path);
        self.by_stem.get(stem).filter(|_| stem != path).map(|at| (Difference::OtherExtension, found(at)))
    }

    fn resembling(&self, name: &str) -> Option<(Difference, &str)> {
        // Without extensions, which most names share.
        let stems = self.files.iter().map(|file| without_extension(file)).take(MAX_RESEMBLING_FILES);
        let stem = agiqa_suggest::nearest(without_extension(name), stems)?;
        self.files.iter().find(|file| without_extension(file) == stem).map(|file| (Difference::Letters, file.as_str()))
    }
}

fn folded(path: &str) -> String {
    path.nfc().collect::<String>().to_lowercase()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn without_extension(path: &str) -> &str {
    match path.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') && !stem.is_empty() => stem,
        _ => path,
    }
}

/// Whether a reject's name leads to no file of the folder, such as a path of another machine.
fn is_missing(reject: &RejectRow) -> bool {
    matches!(reject.kind.as_str(), "missing" | "escapes-folder")
}

/// Adds to each reject of a missing image the file that its name may have meant. Returns a sentence if most of the
/// missing names differ from files in the same way.
pub(super) fn explain(folder: &Path, rejected: &mut [RejectRow]) -> Option<String> {
    let n_missing = rejected.iter().filter(|reject| is_missing(reject)).count();
    if n_missing == 0 {
        return None;
    }
    let nearby = Nearby::of(folder);
    let mut differences: BTreeMap<Difference, (usize, String)> = BTreeMap::new();
    let mut n_searched = 0;
    for reject in rejected.iter_mut().filter(|reject| is_missing(reject)) {
        let Some(name) = reject.path.clone() else { continue };
        let found = nearby.file(&name).or_else(|| {
            n_searched += 1;
            (n_searched <= N_RESEMBLING).then(|| nearby.resembling(&name)).flatten()
        });
        let Some((difference, file)) = found else { continue };
        reject.message.push_str(&format!("; the folder holds `{file}`"));
        let example = || (0, format!("`{name}` is there as `{file}`"));
        differences.entry(difference).or_insert_with(example).0 += 1;
    }
    let (difference, (n, example)) = differences.into_iter().max_by_key(|(_, (n, _))| *n)?;
    let is_shared = n * 2 > n_missing && n > 1 && difference != Difference::Letters;
    is_shared.then(|| {
        let words = difference.words();
        format!("{n} of {n_missing} missing names differ from files in `{}` by {words}: {example}", folder.display())
    })
}
