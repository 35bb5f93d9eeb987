//! Options shared by the commands that judge scores.

use agiqa_judge::metrics::BootstrapSettings;
use agiqa_store::tables::splits::Part;

/// Estimation of intervals.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct BootstrapArgs {
    /// Number of bootstrap resamples for the 95 % intervals; 0 leaves intervals out.
    #[arg(long, value_name = "N", default_value_t = BootstrapSettings::default().resamples)]
    resamples: u32,
    /// Seed of the resamples.
    #[arg(long, value_name = "N", default_value_t = BootstrapSettings::default().seed)]
    seed: u64,
}

impl BootstrapArgs {
    pub(super) fn settings(self) -> BootstrapSettings {
        BootstrapSettings { resamples: self.resamples, seed: self.seed }
    }
}

/// A part of a split by its name.
pub(super) fn parse_part(name: &str) -> Result<Part, String> {
    Part::from_name(name).ok_or_else(|| "expected `train`, `validation` or `test`".to_owned())
}
