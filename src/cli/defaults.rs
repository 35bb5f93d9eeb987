//! Defaults in help texts. An option that repeats a setting takes its default's text from the settings.

use clap::Command;
use serde::Serialize;
use serde_json::Value;

/// `command` with `[default: …]` at the end of each option that `settings` has a value for.
pub(super) fn shown(command: Command, settings: &impl Serialize) -> Command {
    let settings = serde_json::to_value(settings).expect("settings are plain data");
    command.mut_args(|option| {
        let is_a_switch = !option.get_action().takes_values();
        let has_default = is_a_switch || !option.get_default_values().is_empty();
        let default = settings.get(option.get_id().as_str()).filter(|_| !has_default).and_then(text_of);
        match (default, option.get_help().map(ToString::to_string)) {
            (Some(default), Some(help)) => option.help(format!("{} [default: {default}]", help.trim_end_matches('.'))),
            _ => option,
        }
    })
}

/// A setting as a user writes it on the command line; `None` if it has no value.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(text_of).collect::<Vec<_>>().join(",")),
        other => Some(other.to_string().trim_end_matches(".0").to_owned()),
    }
}
