//! From a table's text cells to rejects and to rows with an image's name and a MOS. No image is opened here.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use super::IngestError;
use super::settings::{IngestSettings, Mapping};
use super::table::{self, RawRow, RawTable, RowProblem, TableFormat};
use agiqa_store::path_text::path_of;
use agiqa_store::tables::images::{COLUMNS, ExtraColumn, ExtraValues};
use agiqa_store::tables::rejects::RejectRow;

/// A row with valid cells. Its image has not been read yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Position in the table, from 0.
    pub(super) position: usize,
    /// Name in the table, without surrounding blanks.
    pub(super) name: String,
    /// Path relative to the image folder, without `.` and `..`.
    pub(super) relative: PathBuf,
    pub(super) mos: f64,
    pub(super) mos_std: Option<f64>,
    pub(super) mos_align: Option<f64>,
    pub(super) prompt: Option<String>,
    pub(super) generator: Option<String>,
}

impl Candidate {
    /// The image's file below `folder`. A name may also be the text of a path that is not UTF-8, as tables of the store
    /// write it, unless there is a file of the very name.
    pub(super) fn file(&self, folder: &Path) -> PathBuf {
        let file = folder.join(&self.relative);
        let meant = self.relative.to_str().map(path_of).filter(|meant| *meant != self.relative);
        let is_inside = |meant: &PathBuf| meant.components().all(|part| matches!(part, Component::Normal(_)));
        match meant.filter(is_inside) {
            Some(meant) if !file.exists() => folder.join(meant),
            _ => file,
        }
    }
}

/// A table, divided into candidates and rejects.
pub(super) struct Plan {
    /// BLAKE3 (hex) of the table file.
    pub(super) table_hash: String,
    pub(super) candidates: Vec<Candidate>,
    pub(super) rejects: Vec<RejectRow>,
    dataset: String,
    table: RawTable,
    mapped: HashSet<usize>,
    mapping: Mapping,
}

impl Plan {
    /// Reads the table that `settings` name.
    pub(super) fn of(settings: &IngestSettings) -> Result<Self, IngestError> {
        let mapping = settings.mapping()?;
        let path = &settings.table;
        let format = match settings.format {
            Some(format) => format,
            None => path
                .extension()
                .and_then(|extension| TableFormat::of_extension(extension.to_str()?))
                .ok_or_else(|| IngestError::UnknownFormat { path: path.clone() })?,
        };
        let bytes = std::fs::read(path).map_err(|source| IngestError::ReadTable { path: path.clone(), source })?;
        let table_hash = blake3::hash(&bytes).to_hex().to_string();
        let table = table::read(bytes, format, settings.sheet.as_deref())
            .map_err(|reason| IngestError::MalformedTable { path: path.clone(), reason })?;
        if table.rows.is_empty() {
            return Err(IngestError::NoRows { path: path.clone() });
        }
        let columns = MappedColumns::find(path, &table, &mapping)?;
        let dataset = settings.dataset.to_string();
        let mut sorter = Sorter { path, columns: &columns, table: &table, mapping: &mapping, names: HashMap::new() };
        let (mut candidates, mut rejects) = (Vec::new(), Vec::new());
        for (position, row) in table.rows.iter().enumerate() {
            match sorter.sort(position, row) {
                Ok(candidate) => candidates.push(candidate),
                Err(problem) => rejects.push(problem.reject(&dataset, path, row)),
            }
        }
        let mapped = columns.positions();
        Ok(Self { table_hash, candidates, rejects, dataset, table, mapped, mapping })
    }

    /// Number of data rows of the table.
    pub(super) fn n_rows(&self) -> usize {
        self.table.rows.len()
    }

    /// A reject of `candidate` because of its image.
    pub(super) fn reject(&self, candidate: &Candidate, kind: &str, message: String) -> RejectRow {
        RejectRow {
            dataset: Some(self.dataset.clone()),
            path: Some(candidate.name.clone()),
            row: Some(self.table.rows[candidate.position].number),
            ..RejectRow::now(kind, message)
        }
    }

    /// Number of `candidate`'s row, from 1 after the header.
    pub(super) fn number(&self, candidate: &Candidate) -> u64 {
        self.table.rows[candidate.position].number
    }

    /// The columns of `kept` rows that the `images` table does not define: row number, derived columns, and the table's
    /// other columns.
    pub(super) fn extra_columns(&self, kept: &[&Candidate]) -> Vec<ExtraColumn> {
        // Names are compared without case, as in the engines that query the tables.
        let mut taken: HashSet<String> = COLUMNS.iter().map(|column| column.name.to_ascii_lowercase()).collect();
        let numbers = kept.iter().map(|candidate| Some(self.number(candidate) as f64)).collect();
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
        for (index, name) in self.table.columns.iter().enumerate() {
            if self.mapped.contains(&index) {
                continue;
            }
            let cell = |candidate: &&Candidate| match &self.table.rows[candidate.position].cells {
                Ok(cells) => cells[index].clone(),
                Err(_) => None,
            };
            let cells: Vec<Option<String>> = kept.iter().map(cell).collect();
            if name.is_empty() {
                // Spreadsheets write delimiters for columns that were never used.
                if cells.iter().any(Option::is_some) {
                    add(&format!("column_{}", index + 1), values_of(cells));
                }
            } else {
                add(name, values_of(cells));
            }
        }
        extra
    }
}

/// The cells as numbers if every non-empty cell is a number, else as text.
fn values_of(cells: Vec<Option<String>>) -> ExtraValues {
    let numbers: Option<Vec<Option<f64>>> = cells
        .iter()
        .map(|cell| match cell {
            Some(text) => plain_number(text).map(Some),
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
    name: usize,
    mos: usize,
    mos_std: Option<usize>,
    mos_align: Option<usize>,
    prompt: Option<usize>,
    generator: Option<usize>,
}

impl MappedColumns {
    fn find(path: &Path, table: &RawTable, mapping: &Mapping) -> Result<Self, IngestError> {
        let find = |key: &'static str, column: &str| {
            let mut found = (0..table.columns.len()).filter(|index| table.columns[*index] == column);
            match (found.next(), found.next()) {
                (Some(index), None) => Ok(index),
                (Some(_), Some(_)) => {
                    Err(IngestError::RepeatedColumn { path: path.to_owned(), column: column.to_owned() })
                }
                (None, _) => Err(IngestError::missing_column(path, key, column, &table.columns)),
            }
        };
        let optional = |key, column: &Option<String>| column.as_ref().map(|column| find(key, column)).transpose();
        Ok(Self {
            name: find("name", &mapping.name)?,
            mos: find("mos", &mapping.mos)?,
            mos_std: optional("mos_std", &mapping.mos_std)?,
            mos_align: optional("mos_align", &mapping.mos_align)?,
            prompt: optional("prompt", &mapping.prompt)?,
            generator: optional("generator", &mapping.generator_column)?,
        })
    }

    fn positions(&self) -> HashSet<usize> {
        let Self { name, mos, mos_std, mos_align, prompt, generator } = self;
        [Some(*name), Some(*mos), *mos_std, *mos_align, *prompt, *generator].into_iter().flatten().collect()
    }
}

/// Why a row is rejected before its image is read.
struct Problem {
    kind: &'static str,
    name: Option<String>,
    message: String,
}

impl Problem {
    fn reject(self, dataset: &str, table: &Path, row: &RawRow) -> RejectRow {
        let place = row.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
        let message = format!("`{}`, row {}{place}: {}", table.display(), row.number, self.message);
        RejectRow {
            dataset: Some(dataset.to_owned()),
            path: self.name,
            row: Some(row.number),
            ..RejectRow::now(self.kind, message)
        }
    }
}

struct Sorter<'a> {
    path: &'a Path,
    columns: &'a MappedColumns,
    table: &'a RawTable,
    mapping: &'a Mapping,
    names: HashMap<PathBuf, u64>,
}

impl Sorter<'_> {
    fn sort(&mut self, position: usize, row: &RawRow) -> Result<Candidate, Problem> {
        let cells = row.cells.as_ref().map_err(|problem| self.row_problem(problem))?;
        let text = |index: usize| cells[index].as_deref().map(str::trim).filter(|text| !text.is_empty());
        let Some(name) = text(self.columns.name) else {
            let message = format!("column `{}`: expected the name of an image, found an empty cell", self.mapping.name);
            return Err(Problem { kind: "empty-name", name: None, message });
        };
        let problem = |kind, message| Problem { kind, name: Some(name.to_owned()), message };
        let relative = relative_path(name).map_err(|reason| {
            let message = format!("column `{}`: `{name}` {reason}", self.mapping.name);
            problem("escapes-folder", message)
        })?;
        let mos = self.mos(text(self.columns.mos)).map_err(|(kind, message)| problem(kind, message))?;
        let number = |index: Option<usize>| match index {
            Some(index) => optional_number(text(index)).map_err(|found| {
                let column = &self.table.columns[index];
                problem("bad-number", format!("column `{column}`: expected a number or an empty cell, found `{found}`"))
            }),
            None => Ok(None),
        };
        let (mos_std, mos_align) = (number(self.columns.mos_std)?, number(self.columns.mos_align)?);
        if let Some(earlier) = self.names.get(&relative) {
            let message =
                format!("column `{}`: `{name}` names the same file as row {earlier}, which is kept", self.mapping.name);
            return Err(problem("duplicate-name", message));
        }
        self.names.insert(relative.clone(), row.number);
        let generator = match (&self.mapping.generator_rule, self.columns.generator) {
            (Some(rule), _) => rule.apply(&relative),
            (None, Some(index)) => text(index).map(str::to_owned),
            (None, None) => None,
        };
        // The generator was given the prompt with all its blanks, so they are kept.
        let prompt = self.columns.prompt.and_then(|index| cells[index].clone());
        Ok(Candidate { position, name: name.to_owned(), relative, mos, mos_std, mos_align, prompt, generator })
    }

    fn row_problem(&self, problem: &RowProblem) -> Problem {
        let (kind, message) = match problem {
            RowProblem::Ragged { expected, found } => {
                ("ragged-row", format!("expected {expected} cells as in the header, found {found}"))
            }
            RowProblem::NotUtf8 { column } => {
                let column = &self.table.columns[*column];
                (
                    "not-utf8",
                    format!("column `{column}`: the text is not UTF-8; save `{}` as UTF-8", self.path.display()),
                )
            }
            RowProblem::NotAnObject { found } => ("ragged-row", format!("expected a JSON object, found {found}")),
        };
        Problem { kind, name: None, message }
    }

    fn mos(&self, text: Option<&str>) -> Result<f64, (&'static str, String)> {
        let [low, high] = self.mapping.mos_scale;
        let column = &self.mapping.mos;
        let expected = format!("column `{column}`: expected a number from {low} to {high}");
        let Some(text) = text else { return Err(("bad-mos", format!("{expected}, found an empty cell"))) };
        match text.parse::<f64>() {
            Ok(mos) if (low..=high).contains(&mos) => Ok(mos),
            Ok(mos) if mos.is_finite() => Err(("mos-out-of-scale", format!("{expected}, found {text}"))),
            _ => Err(("bad-mos", format!("{expected}, found `{text}`"))),
        }
    }
}

/// A number; `None` for an empty cell and for `nan`, which some programs write instead.
fn optional_number(text: Option<&str>) -> Result<Option<f64>, String> {
    match text.map(|text| (text, text.parse::<f64>())) {
        None => Ok(None),
        Some((_, Ok(number))) if number.is_finite() => Ok(Some(number)),
        Some((_, Ok(number))) if number.is_nan() => Ok(None),
        Some((text, _)) => Err(text.to_owned()),
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
                return Err("is an absolute path; names are relative to the image folder");
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
        assert_eq!(values_of(cells(&["1", "", "-0.5"])), ExtraValues::Real(vec![Some(1.0), None, Some(-0.5)]));
        for texts in [["1", "x"], ["007", "1"], ["12345678901234567890", "1"], ["inf", "1"], ["NaN", "1"], ["", ""]] {
            assert!(matches!(values_of(cells(&texts)), ExtraValues::Text(_)), "{texts:?}");
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
