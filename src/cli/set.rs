//! `--set KEY=VALUE`, on every command with settings. The keys are the keys of the command's table in a pipeline.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::set_argument;
use crate::pipeline::{ConfigError, overlaid};

/// Overrides of single settings.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SetArgs {
    /// Override a setting by its key in this command's table of a pipeline. It takes precedence over options.
    /// Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = set_argument())]
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
