//! From a table's text cells to rejects and to rows with an image's name and a MOS. No image is opened here.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::IngestError;
use super::adapter::{Adapter, Names};
use super::settings::{IngestSettings, Mapping};
use agiqa_intake::{Row, Table};
use agiqa_store::path_text::path_of;
use agiqa_store::tables::images::{COLUMNS, ExtraColumn, ExtraValues};
use agiqa_store::tables::rejects::RejectRow;

/// A row with valid cells. Its image has not been read yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Position in the table, from 0.
    pub(super) position: usize,
    /// Path relative to the image folder, without `.` and `..`.
    pub(super) relative: PathBuf,
    pub(super) mos: f64,
    pub(super) mos_std: Option<f64>,
    pub(super) mos_align: Option<f64>,
}

impl Candidate {
    /// Number of its row, from 1 after the header.
    pub(super) fn number(&self) -> u64 {
        self.position as u64 + 1
    }
}

impl Candidate {
    /// The image's file below `folder`. A name may also be the text of a path that is not UTF-8, as tables of the store
    /// write it, unless there is a file of the very name.
    pub(super) fn file(&self, folder: &Path) -> PathBuf {
        file_of(folder, &self.relative)
    }
}

fn file_of(folder: &Path, relative: &Path) -> PathBuf {
    let file = folder.join(relative);
    let meant = relative.to_str().map(path_of).filter(|meant| meant != relative);
    let is_inside = |meant: &PathBuf| meant.components().all(|part| matches!(part, Component::Normal(_)));
    match meant.filter(is_inside) {
        Some(meant) if !file.exists() => folder.join(meant),
        _ => file,
    }
}

/// A table, divided into candidates and rejects.
pub(super) struct Plan {
    /// BLAKE3 (hex) of the table file.
    pub(super) table_hash: String,
    pub(super) candidates: Vec<Candidate>,
    pub(super) rejects: Vec<RejectRow>,
    /// What a person should know about how the table was read.
    pub(super) notes: Vec<String>,
    dataset: String,
    table: Table,
    columns: MappedColumns,
    mapping: Mapping,
}

impl Plan {
    /// Reads the table that `settings` name. Absolute names are looked for below `folder`.
    pub(super) fn of(settings: &IngestSettings, folder: Option<&Path>) -> Result<Self, IngestError> {
        let mapping = settings.mapping()?;
        let (path, reading) = (&settings.table, settings.reading());
        let mut table = agiqa_intake::open(path, &reading)?;
        for name in &settings.adapter.known.next_to_it {
            table = table.joined(agiqa_intake::open(&path.with_file_name(name), &reading)?)?;
        }
        table.require_rows()?;
        let columns = MappedColumns::find(&table, &mapping, settings.adapter)?;
        let notes = table.notes().iter().map(|note| format!("`{}`: {note}", path.display()));
        let notes = notes.chain(table.header_warning(&columns.key_columns())).collect();
        let dataset = settings.dataset.to_string();
        let folders = folder.map(|folder| [settings.images.clone(), folder.to_owned()]);
        let mut sorter = Sorter { columns: &columns, table: &table, mapping: &mapping, folders, names: HashMap::new() };
        let (mut candidates, mut rejects) = (Vec::new(), Vec::new());
        for position in 0..table.n_rows() {
            match sorter.sort(position) {
                Ok(candidate) => candidates.push(candidate),
                Err(problem) => rejects.push(problem.reject(&dataset, path, &table, position)),
            }
        }
        let table_hash = table.hash().to_owned();
        Ok(Self { table_hash, candidates, rejects, notes, dataset, table, columns, mapping })
    }

    /// Number of data rows of the table.
    pub(super) fn n_rows(&self) -> usize {
        self.table.n_rows()
    }

    /// A reject of `candidate` because of its image.
    pub(super) fn reject(&self, candidate: &Candidate, kind: &str, message: String) -> RejectRow {
        RejectRow {
            dataset: Some(self.dataset.clone()),
            path: Some(self.name(candidate)),
            row: Some(candidate.number()),
            ..RejectRow::now(kind, message)
        }
    }

    /// The name of `candidate`'s image as the table gives it, without surrounding blanks.
    pub(super) fn name(&self, candidate: &Candidate) -> String {
        let name = self.row(candidate).and_then(|row| self.columns.names.of(row, candidate.position));
        name.map_or_else(String::new, |name| name.trim().to_owned())
    }

    /// The prompt. The generator was given it with all its blanks, so they are kept.
    pub(super) fn prompt(&self, candidate: &Candidate) -> Option<String> {
        self.row(candidate)?.cell(self.columns.prompt?).map(str::to_owned)
    }

    /// The model that made the image, by the rule for its name or by its column.
    pub(super) fn generator(&self, candidate: &Candidate) -> Option<String> {
        match (&self.mapping.generator_rule, self.columns.generator) {
            (Some(rule), _) => rule.apply(&candidate.relative),
            (None, column) => self.row(candidate)?.trimmed(column?).map(str::to_owned),
        }
    }

    fn row(&self, candidate: &Candidate) -> Option<Row<'_>> {
        self.table.row(candidate.position).ok()
    }

    /// The columns of `kept` rows that the `images` table does not define: row number, derived columns, and the table's
    /// other columns.
    pub(super) fn extra_columns(&self, kept: &[&Candidate]) -> Vec<ExtraColumn> {
        // Names are compared without case, as in the engines that query the tables.
        let mut taken: HashSet<String> = COLUMNS.iter().map(|column| column.name.to_ascii_lowercase()).collect();
        let numbers = kept.iter().map(|candidate| Some(candidate.number() as f64)).collect();
        let mut extra = Vec::new();
        let mut add = |name: &str, values: ExtraValues| {
            let mut free = name.to_owned();
            let mut n = 2;
            if taken.contains(&free.to_ascii_lowercase()) {
                free = format!("table_{name}");
            }
            while !taken.insert(free.to_ascii_lowercase()) {
                free = format!("table_{name}_{n}");
                n += 1;
            }
            extra.push(ExtraColumn { name: free, values });
        };
        add("table_row", ExtraValues::Real(numbers));
        for (name, rule) in &self.mapping.derive {
            let values = kept.iter().map(|candidate| rule.apply(&candidate.relative)).collect();
            add(name, ExtraValues::Text(values));
        }
        let number = |text: &str| plain_number(&self.table.with_point(text));
        let mapped = self.columns.positions();
        for (index, name) in self.table.columns().iter().enumerate() {
            if mapped.contains(&index) {
                continue;
            }
            let cell = |candidate: &&Candidate| self.row(candidate)?.cell(index).map(str::to_owned);
            let cells: Vec<Option<String>> = kept.iter().map(cell).collect();
            if name.is_empty() {
                // Spreadsheets write delimiters for columns that were never used.
                if cells.iter().any(Option::is_some) {
                    add(&format!("column_{}", index + 1), values_of(cells, number));
                }
            } else {
                add(name, values_of(cells, number));
            }
        }
        extra
    }
}

/// The cells as numbers if every non-empty cell is a number, else as text.
fn values_of(cells: Vec<Option<String>>, number: impl Fn(&str) -> Option<f64>) -> ExtraValues {
    let numbers: Option<Vec<Option<f64>>> = cells
        .iter()
        .map(|cell| match cell {
            Some(text) => number(text).map(Some),
            None => Some(None),
        })
        .collect();
    match numbers {
        Some(numbers) if numbers.iter().any(Option::is_some) => ExtraValues::Real(numbers),
        _ => ExtraValues::Text(cells),
    }
}

/// `text` as a number; `None` if the conversion would lose information, as with `007` or a long id.
fn plain_number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let padded = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    let exact = number.abs() < 9_007_199_254_740_992.0 || !digits.bytes().all(|byte| byte.is_ascii_digit());
    (digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && !padded && exact).then_some(number)
}

struct MappedColumns {
    names: Names,
    mos: usize,
    mos_std: Option<usize>,
    mos_align: Option<usize>,
    prompt: Option<usize>,
    generator: Option<usize>,
}

impl MappedColumns {
    fn find(table: &Table, mapping: &Mapping, adapter: Adapter) -> Result<Self, IngestError> {
        let find = |key: &'static str, column: &str| {
            // An adapter may know several names of a column.
            let present = column.split('|').find(|column| table.column(column).is_ok()).unwrap_or(column);
            let first = column.split('|').next().filter(|_| present == column).unwrap_or(present);
            table.column(first).map_err(|source| IngestError::Column { key, source })
        };
        let optional = |key, column: &Option<String>| column.as_ref().map(|column| find(key, column)).transpose();
        Ok(Self {
            names: match &mapping.name {
                Some(column) => Names::Column(find("name", column)?),
                None => Names::of_rule(adapter, table).map_err(|source| IngestError::Column { key: "name", source })?,
            },
            mos: find("mos", &mapping.mos)?,
            mos_std: optional("mos_std", &mapping.mos_std)?,
            mos_align: optional("mos_align", &mapping.mos_align)?,
            prompt: optional("prompt", &mapping.prompt)?,
            generator: optional("generator", &mapping.generator_column)?,
        })
    }

    fn key_columns(&self) -> Vec<usize> {
        self.names.column().into_iter().chain([self.mos]).collect()
    }

    fn positions(&self) -> HashSet<usize> {
        let Self { names, mos, mos_std, mos_align, prompt, generator } = self;
        [names.column(), Some(*mos), *mos_std, *mos_align, *prompt, *generator].into_iter().flatten().collect()
    }
}

/// Why a row is rejected before its image is read.
struct Problem {
    kind: &'static str,
    name: Option<String>,
    message: String,
}

impl Problem {
    fn reject(self, dataset: &str, path: &Path, table: &Table, position: usize) -> RejectRow {
        let message = format!("`{}`, {}: {}", path.display(), table.place(position), self.message);
        RejectRow {
            dataset: Some(dataset.to_owned()),
            path: self.name,
            row: Some(position as u64 + 1),
            ..RejectRow::now(self.kind, message)
        }
    }
}

struct Sorter<'a> {
    columns: &'a MappedColumns,
    table: &'a Table,
    mapping: &'a Mapping,
    /// The image folder as given and as it resolves; `None` if images are not opened.
    folders: Option<[PathBuf; 2]>,
    /// Rows by a hash of their image's path.
    names: HashMap<[u8; 16], usize>,
}

impl Sorter<'_> {
    fn sort(&mut self, position: usize) -> Result<Candidate, Problem> {
        let row = self.table.row(position);
        let row = row.map_err(|p| Problem { kind: p.kind(), name: None, message: p.to_string() })?;
        let place = self.columns.names.column().map_or("the name", |column| &self.table.columns()[column]);
        let Some(whole_name) = self.columns.names.of(row, position) else {
            let message = format!("column `{place}`: expected the name of an image, found no value");
            return Err(Problem { kind: "empty-name", name: None, message });
        };
        let name = whole_name.trim();
        let problem = |kind, message| Problem { kind, name: Some(name.to_owned()), message };
        let relative = self.relative(&whole_name).map_err(|reason| {
            let message = format!("column `{place}`: `{name}` {reason}");
            problem("escapes-folder", message)
        })?;
        let mos = self.mos(row.trimmed(self.columns.mos)).map_err(|(kind, message)| problem(kind, message))?;
        let number = |index: Option<usize>| match index.and_then(|index| Some((index, row.trimmed(index)?))) {
            None => Ok(None),
            Some((index, text)) => match self.table.number(text) {
                Some(number) if number.is_finite() => Ok(Some(number)),
                _ => {
                    let (column, hint) = (&self.table.columns()[index], self.table.number_hint(text));
                    let message = format!("column `{column}`: expected a number or no value, found `{text}`{hint}");
                    Err(problem("bad-number", message))
                }
            },
        };
        let (mos_std, mos_align) = (number(self.columns.mos_std)?, number(self.columns.mos_align)?);
        let hash = blake3::hash(relative.as_os_str().as_encoded_bytes());
        let key = std::array::from_fn(|at| hash.as_bytes()[at]);
        if let Some(earlier) = self.names.get(&key) {
            let earlier = earlier + 1;
            let message = format!("column `{place}`: `{name}` names the same file as row {earlier}, which is kept");
            return Err(problem("duplicate-name", message));
        }
        self.names.insert(key, position);
        Ok(Candidate { position, relative, mos, mos_std, mos_align })
    }

    /// The path of a name below the image folder. A name that is there as it stands, or as the text of a path, is taken as
    /// it stands; else blanks around it are left out, and `\` separates folders. An absolute path must lie below the folder. A
    /// path may begin with the image folder's own last folders.
    fn relative(&self, whole_name: &str) -> Result<PathBuf, &'static str> {
        let name = whole_name.trim();
        if let Some([_, folder]) = &self.folders
            && (name != whole_name || name.contains('\\'))
            && let Ok(path) = relative_path(whole_name)
            && file_of(folder, &path).is_file()
        {
            return Ok(path);
        }
        let name = name.strip_prefix("file://").unwrap_or(name).replace('\\', "/");
        let below = |folder: &PathBuf| Path::new(&name).strip_prefix(folder).ok().map(Path::to_owned);
        let below = self.folders.iter().flatten().find_map(below).filter(|_| Path::new(&name).is_absolute());
        let path = relative_path(below.as_deref().and_then(Path::to_str).unwrap_or(&name))?;
        Ok(self.without_own_folders(&path).unwrap_or(path))
    }

    /// What is left of a path that begins with the last folders of the image folder's own path, if only the rest is there.
    fn without_own_folders(&self, path: &Path) -> Option<PathBuf> {
        let [_, folder] = self.folders.as_ref()?;
        let own = path.ancestors().filter(|lead| !lead.as_os_str().is_empty() && folder.ends_with(lead));
        let mut rests = own.filter_map(|lead| path.strip_prefix(lead).ok()).filter(|rest| !rest.as_os_str().is_empty());
        let rest = rests.find(|rest| file_of(folder, rest).is_file())?;
        (!file_of(folder, path).exists()).then(|| rest.to_owned())
    }

    fn mos(&self, text: Option<&str>) -> Result<f64, (&'static str, String)> {
        let [low, high] = self.mapping.mos_scale;
        let column = &self.table.columns()[self.columns.mos];
        let expected = format!("column `{column}`: expected a number from {low} to {high}");
        let Some(text) = text else { return Err(("bad-mos", format!("{expected}, found no value"))) };
        match self.table.number(text) {
            Some(mos) if (low..=high).contains(&mos) && self.mapping.lower_is_better => Ok(low + high - mos),
            Some(mos) if (low..=high).contains(&mos) => Ok(mos),
            Some(mos) if mos.is_finite() => Err(("mos-out-of-scale", format!("{expected}, found {text}"))),
            _ => Err(("bad-mos", format!("{expected}, found `{text}`{}", self.table.number_hint(text)))),
        }
    }
}

/// The path of `name` below the image folder, computed from its text alone. A name in a table must not lead out of the
/// folder. A symbolic link inside the folder may, because the folder's owner put it there.
fn relative_path(name: &str) -> Result<PathBuf, &'static str> {
    let outside = "leads out of the image folder";
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            Component::ParentDir => return Err(outside),
            Component::RootDir | Component::Prefix(_) => {
                return Err("is an absolute path outside of the image folder");
            }
        }
    }
    if path.as_os_str().is_empty() { Err("is the image folder itself") } else { Ok(path) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_cannot_climb_out_of_its_folder() {
        assert_eq!(relative_path("a/../b/./c.png"), Ok(PathBuf::from("b/c.png")));
        for name in ["../a.png", "a/../../b.png", "/etc/passwd", ".", "a/.."] {
            assert!(relative_path(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_column_has_numbers_only_if_nothing_is_lost() {
        let cells = |texts: &[&str]| texts.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect();
        assert_eq!(
            values_of(cells(&["1", "", "-0.5"]), plain_number),
            ExtraValues::Real(vec![Some(1.0), None, Some(-0.5)])
        );
        for texts in [["1", "x"], ["007", "1"], ["12345678901234567890", "1"], ["inf", "1"], ["NaN", "1"], ["", ""]] {
            assert!(matches!(values_of(cells(&texts), plain_number), ExtraValues::Text(_)), "{texts:?}");
        }
    }

    proptest! {
        #[test]
        fn every_accepted_name_stays_below_the_folder(name in "[./ab]{0,12}") {
            if let Ok(path) = relative_path(&name) {
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
