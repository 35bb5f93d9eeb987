//! The store of `agiqa`: a folder or bucket of parquet parts, its tables, and the interface of every stage.
//!
//! [`identity`] names images and settings by content. [`mod@store`] reads and writes parts. [`tables`] holds one module
//! per table. [`metric`] lists the metrics. [`stage`] defines a stage. A running stage reports to [`console`] and
//! checks [`interrupt`]. [`layout`] prints tables as text. This crate contains no networks and builds without libtorch.

pub mod identity;

pub mod store;

pub mod metric;

pub mod tables;

pub mod stage;

pub mod console;

pub mod interrupt;

pub mod layout;
