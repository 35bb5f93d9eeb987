//! Errors in a pipeline's text, with their places.

use std::path::PathBuf;

/// A pipeline file or a `--set` argument that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read pipeline `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A part of the text is wrong.
    #[error("{place}: {problem}")]
    Wrong {
        /// `<file>:<line>:<column>`, or the `--set` argument.
        place: String,
        /// The problem, the expected value and the next step.
        problem: String,
    },
}

impl ConfigError {
    /// `problem` at `place`.
    pub fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Wrong { place: place.into(), problem: problem.into() }
    }
}

/// `; did you mean …?` if one of `known` resembles `given`, else the list of `known`.
pub fn suggestion(given: &str, known: &[&str]) -> String {
    match agiqa_suggest::nearest(given, known.iter().copied()) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; known are {}", quoted(known)),
    }
}

/// The names in backquotes, separated by commas.
pub fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_gets_its_nearest_and_a_strange_one_gets_the_list() {
        let known = ["epochs", "lr", "batch"];
        assert_eq!(suggestion("epocs", &known), "; did you mean `epochs`?");
        assert_eq!(suggestion("warmup_steps", &known), "; known are `epochs`, `lr`, `batch`");
    }
}
