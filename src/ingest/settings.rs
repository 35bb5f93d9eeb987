//! Settings of an ingest: the dataset, and the interpretation of its table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::adapter::Adapter;
use agiqa_images::DecodeLimits;
use agiqa_intake::{Delimiter, Reading, TableFormat};
use agiqa_store::path_text;
use agiqa_store::tables::PartitionName;

/// One dataset to ingest: a MOS table and the folder of its images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestSettings {
    /// The table's origin. It decides the column mapping, the generator rule and the MOS scale if they are not given.
    pub adapter: Adapter,
    /// Name of the dataset in the store.
    pub dataset: PartitionName,
    /// The MOS table, in any form that `agiqa_intake` reads; `-` is standard input.
    #[serde(with = "path_text::field")]
    pub table: PathBuf,
    /// Folder that the names in the table are relative to; required unless `no_images` is set.
    #[serde(default, with = "path_text::field")]
    pub images: PathBuf,
    /// The images are not opened. An image's id is then of its name, so it has no features.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_images: bool,
    /// Format of the table; default: by its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// Sheet of a workbook, or key of a JSON file that holds several tables; default: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet: Option<String>,
    /// Delimiter: `comma`, `semicolon`, `tab`, `pipe`, `blank` or a punctuation mark; default: recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<Delimiter>,
    /// Numbers have a decimal comma.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decimal_comma: bool,
    /// The first row is data, and columns are given by number from 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_header: bool,
    /// Encoding of a text that is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Names of the table's columns by their content. Other columns are kept under their own names.
    #[serde(default)]
    pub columns: ColumnNames,
    /// Rule that derives the generator from an image's name, for tables without a column for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<NameRule>,
    /// Further columns derived from an image's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub derive: BTreeMap<String, NameRule>,
    /// Lowest and highest possible MOS. A row outside this scale is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos_scale: Option<[f64; 2]>,
    /// Lower scores are better, as in a DMOS. They are stored reversed: lowest plus highest possible MOS, minus the score.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lower_is_better: bool,
    /// Greatest number of pixels of an image. A larger image is rejected by its header, before anything is allocated.
    #[serde(default = "default_max_pixels")]
    pub max_pixels: u64,
}

fn default_max_pixels() -> u64 {
    DecodeLimits::default().max_pixels
}

/// Names of the table's columns, by their content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnNames {
    /// Name of the image file, relative to the image folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Mean opinion score of quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos: Option<String>,
    /// Standard deviation of the opinion scores of quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos_std: Option<String>,
    /// Mean opinion score of text-to-image alignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mos_align: Option<String>,
    /// Text that the image was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Model that made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
}

impl ColumnNames {
    /// The keys in TOML and on the command line.
    pub const KEYS: [&'static str; 6] = ["name", "mos", "mos_std", "mos_align", "prompt", "generator"];

    /// The column name for `key`, which is one of [`Self::KEYS`]; `None` for another key.
    pub fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "name" => Some(&mut self.name),
            "mos" => Some(&mut self.mos),
            "mos_std" => Some(&mut self.mos_std),
            "mos_align" => Some(&mut self.mos_align),
            "prompt" => Some(&mut self.prompt),
            "generator" => Some(&mut self.generator),
            _ => None,
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            mos: self.mos.or(other.mos),
            mos_std: self.mos_std.or(other.mos_std),
            mos_align: self.mos_align.or(other.mos_align),
            prompt: self.prompt.or(other.prompt),
            generator: self.generator.or(other.generator),
        }
    }
}

/// Rule that derives a value from an image's name, without its extension and, except for `parent-folder`, its folders.
///
/// In TOML it is `{ before-last = "_" }`, `{ before-first = "_" }` or `"parent-folder"`; on the command line
/// `before-last=_` and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameRule {
    /// The text before the first occurrence of this separator; nothing if the name does not contain it.
    BeforeFirst(String),
    /// The text before the last occurrence of this separator; nothing if the name does not contain it.
    BeforeLast(String),
    /// The image's folder; nothing for images directly in the image folder.
    ParentFolder,
}

impl NameRule {
    /// The value for an image with this path, relative to the image folder.
    pub fn apply(&self, path: &Path) -> Option<String> {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let value = match self {
            Self::BeforeFirst(separator) => stem?.split_once(separator.as_str())?.0,
            Self::BeforeLast(separator) => stem?.rsplit_once(separator.as_str())?.0,
            Self::ParentFolder => path.parent()?.file_name()?.to_str()?,
        };
        (!value.is_empty()).then(|| value.to_owned())
    }
}

impl FromStr for NameRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("before-first", separator)) if !separator.is_empty() => Ok(Self::BeforeFirst(separator.to_owned())),
            Some(("before-last", separator)) if !separator.is_empty() => Ok(Self::BeforeLast(separator.to_owned())),
            None if text == "parent-folder" => Ok(Self::ParentFolder),
            _ => Err("expected `before-first=TEXT`, `before-last=TEXT` or `parent-folder`".to_owned()),
        }
    }
}

/// Invalid settings.
#[derive(Debug, thiserror::Error)]
#[error("ingest setting `{key}`: {problem}")]
pub struct IngestSettingsError {
    key: &'static str,
    problem: String,
}

/// Settings that decide the rows, with the adapter's defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Mapping {
    /// Column of the images' names; `None` if the adapter makes them.
    pub(super) name: Option<String>,
    pub(super) mos: String,
    pub(super) mos_std: Option<String>,
    pub(super) mos_align: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) generator_column: Option<String>,
    pub(super) generator_rule: Option<NameRule>,
    pub(super) derive: BTreeMap<String, NameRule>,
    pub(super) mos_scale: [f64; 2],
    pub(super) lower_is_better: bool,
}

impl IngestSettings {
    pub(super) fn mapping(&self) -> Result<Mapping, IngestSettingsError> {
        let known = self.adapter.known;
        let columns = self.columns.clone().or(known.columns.clone());
        let adapter = self.adapter.name();
        let required = |value: Option<String>, key| {
            let problem = format!("is required with the adapter `{adapter}`: name the column of the table");
            value.ok_or(IngestSettingsError { key, problem })
        };
        if self.images.as_os_str().is_empty() && !self.no_images {
            let problem = "is required: the folder of the images, unless `no_images` (`--no-images`) is set".to_owned();
            return Err(IngestSettingsError { key: "images", problem });
        }
        if columns.generator.is_some() && self.generator.is_some() {
            let problem = "give either the rule `generator` or the column `columns.generator`, not both".to_owned();
            return Err(IngestSettingsError { key: "generator", problem });
        }
        let mos_scale = self.mos_scale.or(known.mos_scale).ok_or_else(|| IngestSettingsError {
            key: "mos_scale",
            problem: format!("is required with the adapter `{adapter}`: the lowest and the highest possible MOS"),
        })?;
        if !(mos_scale[0].is_finite() && mos_scale[1].is_finite() && mos_scale[0] < mos_scale[1]) {
            let problem =
                format!("expected two numbers in ascending order, found {} and {}", mos_scale[0], mos_scale[1]);
            return Err(IngestSettingsError { key: "mos_scale", problem });
        }
        Ok(Mapping {
            name: match columns.name {
                None if self.adapter.makes_names() => None,
                name => Some(required(name, "columns.name")?),
            },
            mos: required(columns.mos, "columns.mos")?,
            mos_std: columns.mos_std,
            mos_align: columns.mos_align,
            prompt: columns.prompt,
            generator_rule: match columns.generator {
                Some(_) => None,
                None => self.generator.clone().or(known.generator.clone()),
            },
            generator_column: columns.generator,
            derive: if self.derive.is_empty() { known.derive.clone() } else { self.derive.clone() },
            mos_scale,
            lower_is_better: self.lower_is_better || known.lower_is_better,
        })
    }

    /// How the table is read: as given, else as the adapter knows it.
    pub(super) fn reading(&self) -> Reading {
        let known = self.adapter.known;
        Reading {
            format: self.format,
            sheet: self.sheet.clone().or(known.sheet.clone()),
            delimiter: self.delimiter.or(known.delimiter),
            decimal_comma: self.decimal_comma,
            no_header: self.no_header || known.no_header,
            encoding: self.encoding.clone(),
        }
    }

    pub(super) fn limits(&self) -> DecodeLimits {
        DecodeLimits { max_pixels: self.max_pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_rule_looks_at_the_name_without_folders_and_extension() {
        let path = Path::new("a_b/sd1.5_lowstep_007.jpg");
        assert_eq!(NameRule::BeforeLast("_".to_owned()).apply(path).as_deref(), Some("sd1.5_lowstep"));
        assert_eq!(NameRule::BeforeFirst("_".to_owned()).apply(path).as_deref(), Some("sd1.5"));
        assert_eq!(NameRule::ParentFolder.apply(path).as_deref(), Some("a_b"));
        assert_eq!(NameRule::BeforeLast("+".to_owned()).apply(path), None);
        assert_eq!(NameRule::ParentFolder.apply(Path::new("x.png")), None);
    }

    #[test]
    fn a_rule_reads_the_same_from_toml_and_from_the_command_line() {
        #[derive(Deserialize)]
        struct Holder {
            rule: NameRule,
        }
        for (toml, text) in [("{ before-last = \"_\" }", "before-last=_"), ("\"parent-folder\"", "parent-folder")] {
            let holder: Holder = toml::from_str(&format!("rule = {toml}")).expect("documented syntax");
            assert_eq!(Ok(holder.rule), text.parse());
        }
    }
}
