//! What is wrong with a pipeline's text, and where.

use std::path::PathBuf;

/// A pipeline file, or a `--set` argument, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read pipeline `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {problem}")]
    Wrong {
        /// `<file>:<line>:<column>`, or the `--set` argument.
        place: String,
        /// What is wrong, what was expected, and the next step.
        problem: String,
    },
}

impl ConfigError {
    /// `problem` at `place`.
    pub fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Wrong { place: place.into(), problem: problem.into() }
    }
}

/// `; did you mean …?` where one of `known` resembles `given`, else the list of what is known.
pub fn suggestion(given: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .min()
        // Half of the name wrong is a guess no longer.
        .filter(|(distance, name)| *distance <= (given.len().max(name.len()) / 2).max(1));
    match nearest {
        Some((_, name)) => format!("; did you mean `{name}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are {}", quoted(known)),
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
        assert_eq!(suggestion("warmup_steps", &known), "; there are `epochs`, `lr`, `batch`");
    }
}
