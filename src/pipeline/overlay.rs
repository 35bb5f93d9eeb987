//! Settings from a command's options and its `--set` arguments. They are read like a pipeline's tables, with the same
//! errors.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::de;
use super::error::ConfigError;
use super::params;
use super::tree::{Node, NodeValue, Origin, Sources};
use crate::features::{CommonSettings, ExtractorName, FeatureSettings, NetworkSettings, ReadSettings};
use crate::ratings::RatingSettings;
use crate::train::TrainSettings;
use crate::train::recipes::{FineTuneSettings, HeadSettings, Protocol, RaterSettings, RecipeSettings};
use agiqa_nets::raters::RaterName;

/// Keys of `[train]` whose tables choose a recipe.
const JOINT: &str = "joint";
const FINE_TUNE: &str = "fine_tune";
const RATER: &str = "rater";

/// `settings` with the `--set KEY=VALUE` arguments `set` laid over them.
///
/// # Errors
/// A key is unknown, or a value has a wrong type.
///
/// # Panics
/// If the settings are not plain data, which is a bug.
pub fn overlaid<T: Serialize + DeserializeOwned>(settings: T, set: &[String]) -> Result<T, ConfigError> {
    if set.is_empty() {
        return Ok(settings);
    }
    let json = serde_json::to_value(&settings).expect("settings are plain data");
    let (sources, node) = tree_of(&json, set)?;
    de::settings(&sources, "", &node, &[])
}

/// The settings of extractor `name` from `options`, an object with the given options, and `set`.
///
/// # Errors
/// A key is unknown to the extractor, or a value has a wrong type.
pub fn feature_settings(name: ExtractorName, options: &Value, set: &[String]) -> Result<FeatureSettings, ConfigError> {
    let (sources, node) = tree_of(options, set)?;
    read_feature_settings(&sources, name, node)
}

/// The settings of extractor `name` in the table `node`: its own settings, and the common ones.
///
/// # Errors
/// As [`feature_settings`].
pub(super) fn read_feature_settings(
    sources: &Sources,
    name: ExtractorName,
    node: Node,
) -> Result<FeatureSettings, ConfigError> {
    struct Own<'a> {
        sources: &'a Sources,
        path: String,
        node: Node,
    }

    impl ReadSettings for Own<'_> {
        type Error = ConfigError;

        fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
            de::settings(self.sources, &self.path, &self.node, CommonSettings::KEYS)
        }
    }

    let path = format!("extractor.{name}");
    let (common, node) = common_and_own(sources, &path, node)?;
    let network = NetworkSettings::read(name, &Own { sources, path, node })?;
    Ok(FeatureSettings { network, common })
}

/// Takes the common settings out of the table `node` at `path`. The rest is the network's own.
fn common_and_own(sources: &Sources, path: &str, mut node: Node) -> Result<(CommonSettings, Node), ConfigError> {
    if !matches!(node.value, NodeValue::Table(_)) {
        let problem = format!("`{path}`: expected a table, found {}", node.kind());
        return Err(ConfigError::new(sources.place(node.origin), problem));
    }
    let common = split_off(&mut node, CommonSettings::KEYS);
    Ok((de::settings(sources, path, &common, &[])?, node))
}

/// The settings of the rating network `name` from `options`, an object with the given options, and `set`.
///
/// # Errors
/// A key is unknown, or a value has a wrong type.
pub fn rating_settings(name: RaterName, options: &Value, set: &[String]) -> Result<RatingSettings, ConfigError> {
    let (sources, node) = tree_of(options, set)?;
    read_rating_settings(&sources, name, node)
}

/// The settings of the rating network `name` in the table `node`.
///
/// # Errors
/// As [`rating_settings`].
pub(super) fn read_rating_settings(
    sources: &Sources,
    name: RaterName,
    node: Node,
) -> Result<RatingSettings, ConfigError> {
    let path = format!("scorer.{name}");
    let (common, node) = common_and_own(sources, &path, node)?;
    let options = de::settings(sources, &path, &node, CommonSettings::KEYS)?;
    Ok(RatingSettings { network: name, options, common, trained: None })
}

/// The settings of a training, trainer and recipe, with the `--set KEY=VALUE` arguments `set` laid over them. Keys are
/// the keys of `[train]`, those of a joint training begin with `joint.`, those of a fine-tuning with `fine_tune.`, those of
/// a rating network with `rater.`.
///
/// # Errors
/// A key that the settings do not have, a value of a wrong type.
///
/// # Panics
/// If the settings are no plain data, which is a bug.
pub fn training_overlaid(
    settings: TrainSettings,
    recipe: RecipeSettings,
    set: &[String],
) -> Result<(TrainSettings, RecipeSettings), ConfigError> {
    if set.is_empty() {
        return Ok((settings, recipe));
    }
    let object = |json: serde_json::Result<Value>| match json.expect("settings are plain data") {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    let mut fields = object(serde_json::to_value(&settings));
    fields.extend(recipe.head().map(|head| object(serde_json::to_value(head))).unwrap_or_default());
    let network = match &recipe {
        RecipeSettings::Head(_) => None,
        RecipeSettings::Joint { joint, .. } => Some((JOINT, serde_json::to_value(joint))),
        RecipeSettings::FineTune { fine_tune, .. } => Some((FINE_TUNE, serde_json::to_value(fine_tune))),
        RecipeSettings::Rater(rater) => Some((RATER, serde_json::to_value(rater))),
    };
    fields.extend(network.map(|(key, json)| (key.to_owned(), Value::Object(object(json)))));
    let (sources, node) = tree_of(&Value::Object(fields), set)?;
    read_training(&sources, "", node, &[])
}

/// The settings of a training in the table `node` at `path`. `more_keys` are keys that the caller has taken out of it.
///
/// # Errors
/// As [`training_overlaid`].
pub(super) fn read_training(
    sources: &Sources,
    path: &str,
    mut node: Node,
    more_keys: &[&str],
) -> Result<(TrainSettings, RecipeSettings), ConfigError> {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let networks = [JOINT, FINE_TUNE, RATER].map(|key| node.remove(key));
    if let [_, second, ..] = networks.iter().flatten().collect::<Vec<_>>()[..] {
        let problem =
            "a training is joint (`joint`), a fine-tuning (`fine_tune`) or of a rating network (`rater`), not several";
        return Err(ConfigError::new(sources.place(second.origin), problem));
    }
    let [joint, fine_tune, rater] = networks;
    let network_keys = || [JOINT, FINE_TUNE, RATER].into_iter().chain(more_keys.iter().copied());
    if let Some(rater) = rater {
        let has_schedule = node.get("schedule").is_some();
        let mut settings: TrainSettings = de::settings(sources, path, &node, &network_keys().collect::<Vec<_>>())?;
        let rater: RaterSettings = de::settings(sources, &below(RATER), &rater, &[])?;
        if let Some(schedule) = Protocol::of(rater.network).schedule.filter(|_| !has_schedule) {
            settings.schedule = schedule;
        }
        return Ok((settings, RecipeSettings::Rater(rater)));
    }
    if fine_tune.is_some() {
        let (settings, head) = FineTuneSettings::defaults();
        for json in [serde_json::to_value(settings), serde_json::to_value(head)] {
            fill_in(&mut node, &json.expect("settings are plain data"));
        }
    }
    let head_keys = HeadSettings::keys();
    let head = split_off(&mut node, &head_keys);
    let more_keys: Vec<&str> = head_keys.iter().map(String::as_str).chain(network_keys()).collect();
    let settings = de::settings(sources, path, &node, &more_keys)?;
    let head = de::settings(sources, path, &head, &[])?;
    let recipe = match (joint, fine_tune) {
        (Some(joint), _) => RecipeSettings::Joint { head, joint: de::settings(sources, &below(JOINT), &joint, &[])? },
        (None, Some(fine_tune)) => {
            let fine_tune = de::settings(sources, &below(FINE_TUNE), &fine_tune, &[])?;
            RecipeSettings::FineTune { head, fine_tune }
        }
        (None, None) => RecipeSettings::Head(head),
    };
    Ok((settings, recipe))
}

/// Inserts the entries of `json` that the table lacks.
fn fill_in(node: &mut Node, json: &Value) {
    let origin = node.origin;
    for (key, value) in json.as_object().into_iter().flatten() {
        if let (None, Some(value)) = (node.get(key), node_of(origin, value)) {
            node.insert(key, value);
        }
    }
}

/// Takes the entries of `keys` out of a table, as a table of their own.
fn split_off(node: &mut Node, keys: &[impl AsRef<str>]) -> Node {
    let mut taken = Vec::new();
    if let NodeValue::Table(entries) = &mut node.value {
        (taken, *entries) =
            std::mem::take(entries).into_iter().partition(|entry| keys.iter().any(|key| key.as_ref() == entry.key));
    }
    Node { origin: node.origin, value: NodeValue::Table(taken) }
}

/// `options` as a tree, with `set` laid over it.
fn tree_of(options: &Value, set: &[String]) -> Result<(Sources, Node), ConfigError> {
    let mut sources = Sources::default();
    let origin = sources.add_options();
    let empty = Node { origin, value: NodeValue::Table(Vec::new()) };
    let mut node = node_of(origin, options).unwrap_or(empty);
    params::lay_over(&mut sources, &mut node, set)?;
    Ok((sources, node))
}

/// JSON as a node; `None` for null.
fn node_of(origin: Origin, json: &Value) -> Option<Node> {
    let value = match json {
        Value::Null => return None,
        Value::Bool(truth) => NodeValue::Truth(*truth),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => NodeValue::Integer(integer),
            None => NodeValue::Real(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => NodeValue::Text(text.clone()),
        Value::Array(items) => NodeValue::Array(items.iter().filter_map(|item| node_of(origin, item)).collect()),
        Value::Object(fields) => {
            let mut node = Node { origin, value: NodeValue::Table(Vec::new()) };
            for (key, value) in fields {
                if let Some(value) = node_of(origin, value) {
                    node.insert(key, value);
                }
            }
            return Some(node);
        }
    };
    Some(Node { origin, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[&str]) -> Result<TrainSettings, String> {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let recipe = RecipeSettings::Head(HeadSettings::default());
        training_overlaid(TrainSettings::default(), recipe, &set)
            .map(|(settings, _)| settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_takes_the_value_that_is_set_and_the_others_stay() {
        let expected = TrainSettings { epochs: 3, ..TrainSettings::default() };
        assert_eq!(with(&["epochs=3"]), Ok(expected));
        assert_eq!(with(&[]), Ok(TrainSettings::default()));
    }

    #[test]
    fn an_unknown_key_and_a_wrong_type_name_the_argument() {
        assert_eq!(with(&["epocs=3"]), Err("--set epocs=3: unknown key `epocs`; did you mean `epochs`?".to_owned()));
        let wrong = with(&["epochs=many"]).expect_err("it is not a number");
        assert!(wrong.starts_with("--set epochs=many: `epochs`: expected"), "{wrong}");
        assert!(with(&["epochs"]).expect_err("no value").contains("KEY=VALUE"));
    }

    #[test]
    fn an_extractor_takes_its_own_keys_and_the_common_ones() {
        let read = |name, set: &str| feature_settings(name, &serde_json::json!({ "part_secs": 5 }), &[set.to_owned()]);
        let settings = read(ExtractorName::Dinov2S14, "side=224").expect("both exist");
        assert_eq!(settings.common.part_secs, 5);
        let error = read(ExtractorName::Maniqa, "side=224").expect_err("its weights decide the side").to_string();
        assert!(error.starts_with("--set side=224: unknown key `side` in `extractor.maniqa`"), "{error}");
    }
}
