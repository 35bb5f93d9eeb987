//! `agiqa` scores the quality of AI-generated images: MA-AGIQA as a batch pipeline over parquet feature stores.
//!
//! The modules follow the data. [`ingest`] turns a MOS table and an image folder into the `images` table, [`corpus`] the images of a night, [`engine`]
//! turns images into rows for its guests, the extractors of [`features`], the methods of [`baselines`] and the networks of
//! [`ratings`], [`splits`] assigns rows to parts, [`train`] fits the fusion head on cached features,
//! [`predict`] writes scores; [`pipeline`] plans and runs all of them from one TOML file. Stages meet only in the tables of
//! `agiqa_store`; networks are in `agiqa_nets` and see neither, and `agiqa_judge` judges what was scored.

pub mod ingest;

pub mod corpus;

pub mod engine;

pub mod features;

pub mod baselines;

pub mod ratings;

pub mod registry;

pub mod splits;

pub mod train;

pub mod predict;

pub mod reproduce;

pub mod pipeline;

pub mod allocator;

pub mod cli;
