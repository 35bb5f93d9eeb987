//! Named parameters (`[params]`, `${name}`) and overrides (`--set train.epochs=3`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::de;
use super::error::{ConfigError, quoted, suggestion};
use super::tree::{Node, NodeValue, Sources};
use agiqa_store::path_text::{path_of, text_of};

/// Type of a parameter's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParamType {
    /// Any text, inserted unchanged.
    #[default]
    Text,
    /// A path. A default is relative to the pipeline's file; a value from `--set` is relative to the current folder.
    Path,
}

/// `[params.<name>]`: a value that the user of the pipeline may give.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// Its purpose, shown if the value is missing.
    pub help: String,
    /// Type of its value.
    #[serde(default, rename = "type")]
    pub kind: ParamType,
    /// Value if `--set` gives none. Without a default, `--set` must give one.
    #[serde(default)]
    pub default: Option<String>,
}

/// Lays `--set` arguments over the settings of one command. Every key is a key path in these settings.
///
/// # Errors
/// An argument is not `KEY=VALUE`, or its key lies within a value that is not a table.
pub fn lay_over(sources: &mut Sources, settings: &mut Node, arguments: &[String]) -> Result<(), ConfigError> {
    for argument in arguments {
        let origin = sources.add_argument(argument);
        let wrong = |problem: String| ConfigError::new(sources.place(origin), problem);
        let (key, value) =
            argument.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE, e.g. `epochs=3`".to_owned()))?;
        let node = Node::parse_argument(sources, origin, value.trim())?;
        set(settings, key.trim(), node).map_err(wrong)?;
    }
    Ok(())
}

/// Lays the `--set` arguments over `document` and replaces every `${name}` with its parameter. The key of an argument
/// is a parameter, one of `top_keys`, or a dotted path.
///
/// # Errors
/// An argument is not `key=value`, its key is neither a parameter nor a key path, or a parameter has no value.
pub fn apply(
    sources: &mut Sources,
    document: &mut Node,
    arguments: &[String],
    top_keys: &[&str],
) -> Result<(), ConfigError> {
    let declared = match document.get("params") {
        Some(node) => de::settings::<BTreeMap<String, Param>>(sources, "params", node, &[])?,
        None => BTreeMap::new(),
    };
    let mut values = HashMap::new();
    for argument in arguments {
        let origin = sources.add_argument(argument);
        let wrong = |problem: String| ConfigError::new(sources.place(origin), problem);
        let (key, value) =
            argument.split_once('=').ok_or_else(|| wrong("expected `key=value`, e.g. `train.epochs=3`".to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        if let Some(param) = declared.get(key) {
            values.insert(key.to_owned(), resolved(param.kind, value, Path::new(".")));
        } else if key.contains('.') || top_keys.contains(&key) {
            let node = Node::parse_argument(sources, origin, value)?;
            set(document, key, node).map_err(wrong)?;
        } else {
            let mut keys: Vec<&str> = declared.keys().map(String::as_str).collect();
            keys.extend(top_keys);
            let problem = "is neither a parameter of this pipeline nor a key path such as `train.epochs`";
            return Err(wrong(format!("`{key}` {problem}{}", suggestion(key, &keys))));
        }
    }
    let params = document.remove("params");
    let mut used = HashSet::new();
    document.try_for_each_text(&mut |origin, text| {
        let wrong = |problem: String| ConfigError::new(sources.place(origin), problem);
        *text = interpolated(text, |name| {
            used.insert(name.to_owned());
            let names: Vec<&str> = declared.keys().map(String::as_str).collect();
            let param = declared
                .get(name)
                .ok_or_else(|| wrong(format!("unknown parameter `${{{name}}}`{}", suggestion(name, &names))))?;
            let default = || param.default.as_deref().map(|value| resolved(param.kind, value, sources.folder(origin)));
            values.get(name).cloned().or_else(default).ok_or_else(|| {
                wrong(format!("parameter `{name}` has no value ({}): give it with `--set {name}=…`", param.help))
            })
        })?;
        Ok(())
    })?;
    if let (Some(name), Some(node)) = (declared.keys().find(|name| !used.contains(*name)), params) {
        let origin = node.get(name).map_or(node.origin, |node| node.origin);
        let problem = format!("parameter `{name}` is used nowhere: write `${{{name}}}` in a string, or remove it");
        return Err(ConfigError::new(sources.place(origin), problem));
    }
    Ok(())
}

fn resolved(kind: ParamType, value: &str, folder: &Path) -> String {
    match kind {
        ParamType::Text => value.to_owned(),
        ParamType::Path => path_below(value, folder),
    }
}

/// The absolute path of `path` relative to `folder`, so that it is not resolved a second time. URLs stay unchanged. Both
/// paths are written as [`agiqa_store::path_text`] writes them.
pub fn path_below(path: &str, folder: &Path) -> String {
    if path.is_empty() || path.contains("://") {
        return path.to_owned();
    }
    let joined = folder.join(path_of(path));
    text_of(std::path::absolute(&joined).unwrap_or(joined))
}

/// Replaces the value at the dotted path `key`. Missing keys are created, because only the settings know the valid
/// ones.
fn set(document: &mut Node, key: &str, node: Node) -> Result<(), String> {
    let mut table = document;
    let mut segments: Vec<&str> = key.split('.').collect();
    let last = segments.pop().unwrap_or_default();
    if last.is_empty() || segments.contains(&"") {
        return Err(format!("`{key}` is not a key path: a name is empty"));
    }
    for segment in segments {
        if table.get_mut(segment).is_none() {
            table.insert(segment, Node { origin: node.origin, value: NodeValue::Table(Vec::new()) });
        }
        let kind = table.kind();
        let found = match &table.value {
            NodeValue::Array(items) => {
                format!("an array of {} (give a position from 0)", items.len())
            }
            NodeValue::Text(_)
            | NodeValue::Integer(_)
            | NodeValue::Real(_)
            | NodeValue::Truth(_)
            | NodeValue::Table(_) => kind.to_owned(),
        };
        table = table.get_mut(segment).ok_or_else(|| format!("`{segment}` of `{key}` is not within {found}"))?;
    }
    match &mut table.value {
        NodeValue::Table(_) => table.insert(last, node),
        NodeValue::Array(_) => {
            let item = table.get_mut(last).ok_or_else(|| format!("`{key}`: the list has no item `{last}`"))?;
            *item = node;
        }
        NodeValue::Text(_) | NodeValue::Integer(_) | NodeValue::Real(_) | NodeValue::Truth(_) => {
            return Err(format!("`{key}` would put a key into {}", table.kind()));
        }
    }
    Ok(())
}

/// `text` with every `${name}` replaced by `value(name)`. `$${` is written for a literal `${`.
fn interpolated(text: &str, mut value: impl FnMut(&str) -> Result<String, ConfigError>) -> Result<String, ConfigError> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        let Some(length) = rest[start..].find('}') else { break };
        result.push_str(&rest[..start]);
        result.push_str(&value(&rest[start + 2..start + length])?);
        rest = &rest[start + length + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

/// Refuses a parameter with the name of a pipeline's key, because `--set` could no longer reach that key.
pub fn check_names(sources: &Sources, document: &Node, keys: &[&str]) -> Result<(), ConfigError> {
    let Some(params) = document.get("params") else { return Ok(()) };
    match params.entries().iter().find(|entry| keys.contains(&entry.key.as_str()) || entry.key.contains('.')) {
        None => Ok(()),
        Some(entry) => Err(ConfigError::new(
            sources.place(entry.key_origin),
            format!(
                "a parameter cannot be called `{}`: its name must not have a dot or be {}",
                entry.key,
                quoted(keys)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dollar_is_itself_unless_a_name_in_braces_follows() {
        let value = |name: &str| Ok(format!("<{name}>"));
        let put = |text: &str| interpolated(text, value).expect("every name has a value");
        assert_eq!(put("${root}/data.csv"), "<root>/data.csv");
        assert_eq!(put("^([a-z]+)_$"), "^([a-z]+)_$");
        assert_eq!(put("$${root} ${a}${b}"), "${root} <a><b>");
    }
}
