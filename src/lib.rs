//! `agiqa` scores the quality of AI-generated images: MA-AGIQA as a batch pipeline over parquet feature stores.
//!
//! The modules follow the data. [`ingest`] turns a MOS table and an image folder into the `images` table, [`features`]
//! runs extractors over images, [`splits`] assigns rows to parts, [`train`] fits the fusion head on cached features,
//! [`predict`] writes scores and [`evaluate`] writes metrics; [`pipeline`] plans and runs all of them from one TOML file.
//! Stages meet only in [`tables`], which live in a [`store`]; networks are under [`models`] and see neither.

pub mod identity;

pub mod store;

pub mod stage;

pub mod tables;

pub mod images;

pub mod ingest;

pub mod models;

pub mod weights;

pub mod features;

pub mod baselines;

pub mod splits;

pub mod train;

pub mod predict;

pub mod metrics;

pub mod evaluate;

pub mod paper;

pub mod compare;

pub mod experiment;

pub mod pipeline;

pub mod allocator;

pub mod console;

pub mod layout;

pub mod interrupt;

pub mod cli;
