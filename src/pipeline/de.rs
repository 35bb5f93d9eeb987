//! Deserialises settings from a [`Node`]. serde errors get the key, its place in the text, and a suggestion.
//!
//! serde passes an unknown key and the list of valid keys only to the deserialiser's own error type. With the error
//! type of `toml`, they would have to be parsed from a sentence. Its spans also do not cover `--set` arguments.

use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::error::{ConfigError, quoted, suggestion};
use super::tree::{Entry, Node, NodeValue, Origin, Sources};

/// Deserialises `node` at the dotted path `path` as a `T`.
///
/// `more_keys` are keys of this table that the caller has removed from it. They are suggested, too.
///
/// # Errors
/// `T` refuses a key or value. The error has its place.
pub fn settings<T: DeserializeOwned>(
    sources: &Sources,
    path: &str,
    node: &Node,
    more_keys: &[&str],
) -> Result<T, ConfigError> {
    T::deserialize(node).map_err(|error| {
        let mut error = node.locate(error);
        error.path.push(path.to_owned());
        error.path.retain(|key| !key.is_empty());
        error.path.reverse();
        let place = sources.place(error.origin.unwrap_or(node.origin));
        let at_top = error.path.as_slice() == [path] || error.path.is_empty();
        ConfigError::new(place, error.problem.text(&error.path.join("."), if at_top { more_keys } else { &[] }))
    })
}

/// A serde error as data, before it is turned into a message.
#[derive(Debug)]
pub enum Problem {
    UnknownKey { key: String, valid: &'static [&'static str] },
    UnknownChoice { found: String, valid: &'static [&'static str] },
    Missing { key: &'static str },
    Type { found: String, expected: String },
    Other(String),
}

impl Problem {
    fn text(&self, path: &str, more_keys: &[&str]) -> String {
        let within = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        match self {
            Self::UnknownKey { key, valid } => {
                let valid: Vec<&str> = valid.iter().chain(more_keys).copied().collect();
                format!("unknown key `{key}`{within}{}", suggestion(key, &valid))
            }
            Self::UnknownChoice { found, valid } => {
                format!("`{path}`: unknown value `{found}`: expected {}{}", quoted(valid), nearest(found, valid))
            }
            Self::Missing { key } => format!("key `{key}` is missing{within}"),
            Self::Type { found, expected } => format!("`{path}`: expected {expected}, found {found}"),
            Self::Other(message) if path.is_empty() => message.clone(),
            Self::Other(message) => format!("`{path}`: {message}"),
        }
    }
}

/// The suggestion of a similar name, without the list of names, which the message has already.
fn nearest(found: &str, valid: &[&str]) -> String {
    let suggestion = suggestion(found, valid);
    if suggestion.ends_with('?') { suggestion } else { String::new() }
}

/// An error that passes outwards through nested values.
#[derive(Debug)]
pub struct NodeError {
    origin: Option<Origin>,
    /// Keys from the innermost to the outermost.
    path: Vec<String>,
    problem: Problem,
}

impl NodeError {
    fn new(problem: Problem) -> Self {
        Self { origin: None, path: Vec::new(), problem }
    }

    fn at(mut self, origin: Origin) -> Self {
        self.origin.get_or_insert(origin);
        self
    }

    fn under(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }
}

impl Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem.text("", &[]))
    }
}

impl std::error::Error for NodeError {}

impl serde::de::Error for NodeError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(Problem::Other(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::Type { found: unexpected.to_string(), expected: expected.to_string() })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownKey { key: field.to_owned(), valid: expected })
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownChoice { found: variant.to_owned(), valid: expected })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Problem::Missing { key: field })
    }
}

impl<'de> Deserializer<'de> for &Node {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        let result = match &self.value {
            NodeValue::Text(text) => visitor.visit_str(text),
            NodeValue::Integer(value) => visitor.visit_i64(*value),
            NodeValue::Real(value) => visitor.visit_f64(*value),
            NodeValue::Truth(value) => visitor.visit_bool(*value),
            NodeValue::Array(items) => visitor.visit_seq(Items(items.iter())),
            NodeValue::Table(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        };
        result.map_err(|error| self.locate(error))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        visitor.visit_newtype_struct(self).map_err(|error| self.locate(error))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        let result = match &self.value {
            NodeValue::Text(text) => {
                let variant: StrDeserializer<'_, NodeError> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            NodeValue::Table(entries) if entries.len() == 1 => visitor.visit_enum(Variant(&entries[0])),
            NodeValue::Table(_)
            | NodeValue::Integer(_)
            | NodeValue::Real(_)
            | NodeValue::Truth(_)
            | NodeValue::Array(_) => {
                Err(NodeError::new(Problem::Type { found: self.kind().to_owned(), expected: "a name".to_owned() }))
            }
        };
        result.map_err(|error| self.locate(error))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl Node {
    /// Gives `error` this node's place, unless it has one. serde buffers tagged enums, so an unknown key of theirs
    /// arrives without a place. It is found in this table.
    fn locate(&self, error: NodeError) -> NodeError {
        let key_origin = match &error.problem {
            Problem::UnknownKey { key, .. } => {
                self.entries().iter().find(|entry| entry.key == *key).map(|entry| entry.key_origin)
            }
            Problem::UnknownChoice { found, .. } => self
                .entries()
                .iter()
                .find(|entry| matches!(&entry.node.value, NodeValue::Text(text) if text == found))
                .map(|entry| entry.node.origin),
            Problem::Missing { .. } | Problem::Type { .. } | Problem::Other(_) => None,
        };
        error.at(key_origin.unwrap_or(self.origin))
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = NodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NodeError> {
        self.0.next().map(|item| seed.deserialize(item)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = NodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, NodeError> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, NodeError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(entry.key_origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, NodeError> {
        let entry = self.current.expect("serde asks for a value after its key");
        seed.deserialize(&entry.node).map_err(|error| entry.node.locate(error).under(&entry.key))
    }
}

/// `{ name = value }`: an enum's variant with data.
struct Variant<'a>(&'a Entry);

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = NodeError;
    type Variant = &'a Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, &'a Node), NodeError> {
        let name: StrDeserializer<'_, NodeError> = self.0.key.as_str().into_deserializer();
        let variant = seed.deserialize(name).map_err(|error| error.at(self.0.key_origin))?;
        Ok((variant, &self.0.node))
    }
}

impl<'de> VariantAccess<'de> for &Node {
    type Error = NodeError;

    fn unit_variant(self) -> Result<(), NodeError> {
        Err(NodeError::new(Problem::Other("this choice takes no settings".to_owned())).at(self.origin))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, NodeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, NodeError> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Train {
        #[serde(default)]
        epochs: u32,
        #[serde(default)]
        gate: Gate,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Gate {
        #[default]
        Sigmoid,
        Linear,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
    enum Split {
        ByPrompt { seed: u64 },
    }

    fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
        let mut sources = Sources::default();
        let source = sources.add_file(Path::new("p.toml"), text);
        let document = Node::parse(&sources, source, text).map_err(|error| error.to_string())?;
        let table = document.get("t").expect("the tests' table");
        settings(&sources, "t", table, &["seeds"]).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn fails<T: DeserializeOwned + std::fmt::Debug>(text: &str, message: &str) {
        assert_eq!(read::<T>(text).expect_err("an error"), message);
    }

    #[test]
    fn values_become_settings() {
        let train: Train = read("[t]\nepochs = 3\ngate = \"linear\"").expect("all of it is known");
        assert_eq!((train.epochs, train.gate), (3, Gate::Linear));
        let Split::ByPrompt { seed } = read("t = { kind = \"by-prompt\", seed = 7 }").expect("all of it is known");
        assert_eq!(seed, 7);
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_the_nearest() {
        fails::<Train>(
            "[t]\nepochs = 3\n  epocs = 4",
            "p.toml:3:3: unknown key `epocs` in `t`; did you mean `epochs`?",
        );
        fails::<Train>("[t]\nseed = 4", "p.toml:2:1: unknown key `seed` in `t`; did you mean `seeds`?");
        // serde reads a tagged enum from a copy without places.
        fails::<Split>(
            "[t]\nkind = \"by-prompt\"\nsed = 4",
            "p.toml:3:1: unknown key `sed` in `t`; did you mean `seed`?",
        );
    }

    #[test]
    fn a_bad_value_is_told_with_its_place_and_what_was_expected() {
        fails::<Train>("[t]\nepochs = \"many\"", "p.toml:2:10: `t.epochs`: expected u32, found string \"many\"");
        fails::<Train>("[t]\nepochs = -1", "p.toml:2:10: `t.epochs`: expected u32, found integer `-1`");
        fails::<Train>(
            "[t]\ngate = \"linea\"",
            "p.toml:2:8: `t.gate`: unknown value `linea`: expected `sigmoid`, `linear`; did you mean `linear`?",
        );
        fails::<Split>(
            "[t]\nkind = \"by-promt\"\nseed = 1",
            "p.toml:2:8: `t.kind`: unknown value `by-promt`: expected `by-prompt`; did you mean `by-prompt`?",
        );
        fails::<Split>("[t]\nkind = \"by-prompt\"", "p.toml:1:2: key `seed` is missing in `t`");
        fails::<Train>(
            "[t]\nepochs = 2020-01-01",
            "p.toml:2:10: `2020-01-01` is a date, and no setting takes one: quote it to make it a string",
        );
        fails::<Train>("[t\nepochs = 2", "p.toml:1:3: not valid TOML: unclosed table, expected `]`");
    }
}
