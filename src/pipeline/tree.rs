//! A TOML document as a tree in which every key and value knows its place in the text.
//!
//! A tree combines two kinds of text: the pipeline's file, and the `--set` arguments laid over it. An error names its
//! place: `pipelines/example.toml:12:3`, or the argument itself.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// The place of a key or value in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    source: usize,
    start: usize,
}

/// A text that keys and values come from.
#[derive(Clone, Debug)]
struct Source {
    /// `pipelines/example.toml`, or `--set train.epochs=3`.
    name: String,
    /// `None` for an argument, which is too short to need positions.
    text: Option<String>,
    /// Folder at which relative paths of this text start.
    folder: PathBuf,
}

/// All texts of one tree.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// The place of `origin`, in words.
    pub fn place(&self, origin: Origin) -> String {
        let source = &self.0[origin.source];
        let Some(text) = &source.text else { return source.name.clone() };
        let before = &text.as_bytes()[..origin.start.min(text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        format!("{}:{line}:{column}", source.name)
    }

    /// Folder at which a relative path written at `origin` starts.
    pub fn folder(&self, origin: Origin) -> &Path {
        &self.0[origin.source].folder
    }

    /// Adds the pipeline's file. Its relative paths start from the file's folder.
    pub fn add_file(&mut self, path: &Path, text: &str) -> usize {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            Some(_) | None => PathBuf::from("."),
        };
        self.0.push(Source { name: path.display().to_string(), text: Some(text.to_owned()), folder });
        self.0.len() - 1
    }

    /// Adds the options of a command, whose paths start from the current folder.
    pub fn add_options(&mut self) -> Origin {
        self.0.push(Source { name: "options".to_owned(), text: None, folder: PathBuf::from(".") });
        Origin { source: self.0.len() - 1, start: 0 }
    }

    /// Adds a `--set` argument. Its relative paths start from the current folder, like a shell's completions.
    pub fn add_argument(&mut self, argument: &str) -> Origin {
        self.0.push(Source { name: format!("--set {argument}"), text: None, folder: PathBuf::from(".") });
        Origin { source: self.0.len() - 1, start: 0 }
    }
}

/// A value and its place in the text.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place. The place of a table with a header is the header.
    pub origin: Origin,
    /// The value itself.
    pub value: NodeValue,
}

/// A value. TOML's dates are refused, because no setting takes one.
#[derive(Clone, Debug)]
pub enum NodeValue {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A finite number.
    Real(f64),
    /// `true` or `false`.
    Truth(bool),
    /// An array, including arrays of tables.
    Array(Vec<Node>),
    /// A table, in the order of the text.
    Table(Vec<Entry>),
}

/// A key of a table with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the key.
    pub key: String,
    /// The key's place.
    pub key_origin: Origin,
    /// Its value.
    pub node: Node,
}

impl Node {
    /// Parses the pipeline file `source`, whose text is `text`.
    pub fn parse(sources: &Sources, source: usize, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            ConfigError::new(sources.place(Origin { source, start }), format!("not valid TOML: {}", error.message()))
        })?;
        let to_origin = |span: Range<usize>| Origin { source, start: span.start };
        let value = DeValue::Table(table.into_inner());
        node_of(sources, to_origin(0..0), value, &to_origin)
    }

    /// The value of the `--set` argument at `origin`. It is parsed as TOML if possible, else it is a plain string.
    pub fn parse_argument(sources: &Sources, origin: Origin, text: &str) -> Result<Self, ConfigError> {
        let assignment = format!("value = {text}");
        let value = match DeTable::parse(&assignment) {
            // More than one key means that the text ended the value and began another key.
            Ok(table) if table.get_ref().len() == 1 => {
                table.into_inner().into_iter().next().map(|(_, value)| value.into_inner())
            }
            Ok(_) | Err(_) => None,
        };
        match value {
            Some(mut value) => {
                value.make_owned();
                node_of(sources, origin, value, &|_| origin)
            }
            None => Ok(Self { origin, value: NodeValue::Text(text.to_owned()) }),
        }
    }

    /// The value of `key`, if this is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The value of `key`, mutable. In an array, `key` is a position.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            NodeValue::Table(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node),
            NodeValue::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
            NodeValue::Text(_) | NodeValue::Integer(_) | NodeValue::Real(_) | NodeValue::Truth(_) => None,
        }
    }

    /// Removes `key` from this table and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let NodeValue::Table(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).node)
    }

    /// Sets `key` of this table.
    pub fn insert(&mut self, key: &str, node: Self) {
        if let Some(old) = self.get_mut(key) {
            *old = node;
        } else if let NodeValue::Table(entries) = &mut self.value {
            entries.push(Entry { key: key.to_owned(), key_origin: node.origin, node });
        }
    }

    /// The entries of a table; empty for any other value.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            NodeValue::Table(entries) => entries,
            NodeValue::Text(_)
            | NodeValue::Integer(_)
            | NodeValue::Real(_)
            | NodeValue::Truth(_)
            | NodeValue::Array(_) => &[],
        }
    }

    /// The items of a non-empty array; `None` for any other value.
    pub fn into_items(self) -> Option<Vec<Self>> {
        let NodeValue::Array(items) = self.value else { return None };
        (!items.is_empty()).then_some(items)
    }

    /// The kind of this value, in words.
    pub fn kind(&self) -> &'static str {
        match self.value {
            NodeValue::Text(_) => "a string",
            NodeValue::Integer(_) => "an integer",
            NodeValue::Real(_) => "a number",
            NodeValue::Truth(_) => "true or false",
            NodeValue::Array(_) => "an array",
            NodeValue::Table(_) => "a table",
        }
    }

    /// Calls `change` on every string in this tree, with the string's place.
    pub fn try_for_each_text(
        &mut self,
        change: &mut impl FnMut(Origin, &mut String) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        match &mut self.value {
            NodeValue::Text(text) => change(self.origin, text),
            NodeValue::Integer(_) | NodeValue::Real(_) | NodeValue::Truth(_) => Ok(()),
            NodeValue::Array(items) => items.iter_mut().try_for_each(|item| item.try_for_each_text(change)),
            NodeValue::Table(entries) => entries.iter_mut().try_for_each(|entry| entry.node.try_for_each_text(change)),
        }
    }
}

fn node_of(
    sources: &Sources,
    origin: Origin,
    value: DeValue<'_>,
    to_origin: &impl Fn(Range<usize>) -> Origin,
) -> Result<Node, ConfigError> {
    let refused = |problem: String| ConfigError::new(sources.place(origin), problem);
    let value = match value {
        DeValue::String(text) => NodeValue::Text(text.into_owned()),
        DeValue::Boolean(truth) => NodeValue::Truth(truth),
        DeValue::Integer(integer) => {
            let value = i64::from_str_radix(integer.as_str(), integer.radix());
            NodeValue::Integer(value.map_err(|_| refused(format!("`{integer}` is too large an integer")))?)
        }
        DeValue::Float(float) => {
            let value = float.as_str().parse::<f64>().ok().filter(|value| value.is_finite());
            NodeValue::Real(value.ok_or_else(|| refused(format!("expected a finite number, found `{float}`")))?)
        }
        DeValue::Datetime(date) => {
            return Err(refused(format!("`{date}` is a date, and no setting takes one: quote it to make it a string")));
        }
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| {
                let origin = to_origin(item.span());
                node_of(sources, origin, item.into_inner(), to_origin)
            });
            NodeValue::Array(items.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let mut entries = Vec::with_capacity(table.len());
            for (key, value) in table {
                let key_origin = to_origin(key.span());
                // A table's own span may be empty or cover only its first key. Its header's key is a better place.
                let origin = if value.get_ref().is_table() { key_origin } else { to_origin(value.span()) };
                let node = node_of(sources, origin, value.into_inner(), to_origin)?;
                entries.push(Entry { key: key.into_inner().into_owned(), key_origin, node });
            }
            entries.sort_by_key(|entry| entry.key_origin.start);
            NodeValue::Table(entries)
        }
    };
    Ok(Node { origin, value })
}
