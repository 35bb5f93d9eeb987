//! The store of `agiqa`: a folder or bucket of parquet parts, its tables, and the interface of every stage.
//!
//! [`identity`] names images and settings by content. [`path_text`] writes paths as text. [`mod@store`] reads and writes parts. [`tables`] holds one module
//! per table. [`metric`] lists the metrics. [`stage`] defines a stage. A running stage reports to [`console`] and
//! checks [`interrupt`]. [`layout`] prints tables as text. [`panics`]
//! turns panics of libraries into errors. This crate contains no networks and builds without libtorch.

pub mod identity;

pub mod path_text;

pub mod store;

pub mod metric;

pub mod tables;

pub mod stage;

pub mod console;

pub mod interrupt;

pub mod layout;

pub mod panics;
