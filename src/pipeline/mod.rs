//! Pipelines: TOML files that name datasets and settings, planned and run stage by stage.
//!
//! ```text
//! file ─ parse ─► tree ─ --set, ${params} ─► tree ─ serde ─► settings of each stage ─► steps ─ plan ─► what to run
//! ```
//!
//! Nothing is ignored silently. A key, a parameter or a `--set` argument that no setting takes is an error with its
//! place and a suggestion.

mod error;

pub use error::ConfigError;

mod tree;

mod de;

mod params;

mod overlay;

pub use overlay::{feature_settings, overlaid, rating_settings, training_overlaid};

mod config;

pub use config::{
    CompareSection, ExperimentSection, FeaturesSection, Pipeline, PredictSection, ReportSection, TrainSection, Variant,
};

mod score;

pub use score::{FeaturesKept, MethodName, ScoreError, ScoreSettings, Scored};

mod steps;

pub mod absent;

pub mod plan;

pub mod summary;
