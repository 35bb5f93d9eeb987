//! Adapters: how the label files of known datasets are read. Each is a row of `adapters.toml`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::settings::{ColumnNames, NameRule};
use agiqa_intake::{Delimiter, Row, Table, TableError};

/// The origin of a table, by the name of a row of `adapters.toml`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    name: &'static str,
    pub(super) known: &'static Known,
}

/// What is known of a dataset's label file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Known {
    /// The dataset and its file, for people.
    about: String,
    pub(super) columns: ColumnNames,
    pub(super) generator: Option<NameRule>,
    pub(super) derive: BTreeMap<String, NameRule>,
    pub(super) mos_scale: Option<[f64; 2]>,
    pub(super) lower_is_better: bool,
    pub(super) no_header: bool,
    pub(super) delimiter: Option<Delimiter>,
    pub(super) sheet: Option<String>,
    /// Files in the table's folder whose columns belong to the same rows.
    pub(super) next_to_it: Vec<String>,
    /// The images' names, from the cells of columns; see [`Names::Template`].
    file_name: Option<String>,
    /// Texts that stand for words of cells in `file_name`.
    words: BTreeMap<String, String>,
    /// The images' names, by position; see [`Names::Blocks`].
    blocks: Vec<(String, usize)>,
}

static ADAPTERS: LazyLock<Vec<(String, Known)>> = LazyLock::new(|| {
    let known: BTreeMap<String, Known> = toml::from_str(include_str!("adapters.toml")).expect("adapters.toml is ours");
    known.into_iter().collect()
});

impl Adapter {
    /// All adapters in the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        ADAPTERS.iter().map(|(name, known)| Self { name, known })
    }

    /// Its name on the command line and in TOML.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The dataset and the file that it reads.
    pub fn about(self) -> &'static str {
        &self.known.about
    }

    /// Whether the adapter makes names of images that the table does not have.
    pub(super) fn makes_names(self) -> bool {
        self.known.file_name.is_some() || !self.known.blocks.is_empty()
    }
}

impl std::str::FromStr for Adapter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|adapter| adapter.name == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            let hint = agiqa_suggest::question(name, names.iter().copied());
            format!("unknown adapter `{name}`, expected one of `{}`{hint}", names.join("`, `"))
        })
    }
}

impl Serialize for Adapter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Adapter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the names of images come from.
pub(super) enum Names {
    /// The cells of a column.
    Column(usize),
    /// A text with `{COLUMN}` or `{COLUMN:04}` (zeros up to four digits) for the cell of a column, by name or number, and
    /// `{row}` for the row's number from 0.
    Template { text: &'static str, words: &'static BTreeMap<String, String>, columns: Vec<(&'static str, usize)> },
    /// Texts with `{n}` for the position in the block from 1, and the number of rows in each block.
    Blocks(&'static [(String, usize)]),
}

impl Names {
    /// Names by the adapter's rule. Fails if the table lacks a column of it.
    pub(super) fn of_rule(adapter: Adapter, table: &Table) -> Result<Self, TableError> {
        let known = adapter.known;
        let Some(text) = known.file_name.as_deref() else { return Ok(Self::Blocks(&known.blocks)) };
        let texts = std::iter::once(text).chain(known.words.values().map(String::as_str));
        let keys = texts.flat_map(placeholders).map(|(key, _)| key).filter(|key| *key != "row");
        let columns = keys.map(|key| Ok((key, table.column(key)?))).collect::<Result<_, TableError>>()?;
        Ok(Self::Template { text, words: &known.words, columns })
    }

    /// The column that holds the names, if one does.
    pub(super) fn column(&self) -> Option<usize> {
        match self {
            Self::Column(column) => Some(*column),
            Self::Template { .. } | Self::Blocks(_) => None,
        }
    }

    /// The name of the image of the row at `position`, with its blanks; `None` if a cell for it is missing.
    pub(super) fn of<'a>(&self, row: Row<'a>, position: usize) -> Option<Cow<'a, str>> {
        match self {
            Self::Column(column) => row.cell(*column).map(Cow::Borrowed),
            Self::Blocks(blocks) => {
                let mut n = position;
                let block = blocks.iter().find(|(_, size)| {
                    n < *size || {
                        n -= size;
                        false
                    }
                });
                block.map(|(text, _)| text.replace("{n}", &(n + 1).to_string()).into())
            }
            Self::Template { text, words, columns } => {
                let mut name = (*text).to_owned();
                // A word may itself hold the place of a column.
                for _ in 0..2 {
                    let template = name;
                    name = template.clone();
                    for (key, width) in placeholders(&template) {
                        let cell = match columns.iter().find(|(column, _)| *column == key) {
                            Some((_, column)) => row.trimmed(*column)?.to_owned(),
                            None => position.to_string(),
                        };
                        let cell = words.get(&cell).cloned().unwrap_or(cell);
                        let place = template_place(key, width);
                        name = name.replace(&place, &format!("{cell:0>width$}", width = width.unwrap_or(0)));
                    }
                }
                Some(name.into())
            }
        }
    }
}

/// The places `{KEY}` and `{KEY:04}` in a template: key and number of digits.
fn placeholders(template: &str) -> impl Iterator<Item = (&str, Option<usize>)> {
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(place, _)| match place.split_once(":0") {
        Some((key, width)) => (key, width.parse().ok()),
        None => (place, None),
    })
}

fn template_place(key: &str, width: Option<usize>) -> String {
    width.map_or_else(|| format!("{{{key}}}"), |width| format!("{{{key}:0{width}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_adapter_of_the_file_is_valid_and_says_what_it_reads() {
        let names: Vec<&str> = Adapter::all().map(Adapter::name).collect();
        assert!(names.len() >= 17 && names.contains(&"generic"), "{names:?}");
        for adapter in Adapter::all() {
            assert!(!adapter.about().is_empty(), "{}", adapter.name());
            assert_eq!(adapter.name().parse(), Ok(adapter));
        }
        assert!("koniq".parse::<Adapter>().is_err_and(|error| error.contains("did you mean `koniq-10k`?")));
    }

    #[test]
    fn places_of_a_template_are_found_with_their_digits() {
        let found: Vec<_> = placeholders("a{x}b{1:04}.png").collect();
        assert_eq!(found, [("x", None), ("1", Some(4))]);
    }
}
