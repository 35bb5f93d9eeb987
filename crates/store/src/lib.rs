//! The store of `agiqa`: a folder or bucket of parquet parts, the tables in it, and what every stage over it is.
//!
//! [`identity`] names images and settings by content, [`mod@store`] reads and writes parts, [`tables`] holds one module per
//! table, [`metric`] lists the metrics, [`stage`] says what a stage is. [`console`] and [`interrupt`] are what a running stage talks to, [`layout`]
//! prints tables as text. Nothing here knows a network: this crate is built without libtorch.

pub mod identity;

pub mod store;

pub mod metric;

pub mod tables;

pub mod stage;

pub mod console;

pub mod interrupt;

pub mod layout;
