//! `--set KEY=VALUE`, on every command that has settings: the keys are those of the command's table in a pipeline.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pipeline::{ConfigError, overlaid};

/// Overrides of single settings.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SetArgs {
    /// Give a setting another value, by its key in a pipeline's table of this command; wins over the options. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SetArgs {
    /// `settings` with the overrides laid over them.
    pub(super) fn over<T: Serialize + DeserializeOwned>(&self, settings: T) -> Result<T, ConfigError> {
        overlaid(settings, &self.set)
    }

    /// The arguments as they were given.
    pub(super) fn arguments(&self) -> &[String] {
        &self.set
    }
}
