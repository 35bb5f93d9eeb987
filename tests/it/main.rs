//! Behaviour of the `agiqa` binary, and of its mathematics against reference numbers. One binary, so that it links once.

mod testdir;

mod architecture;
mod baseline;
mod checkpoint;
mod compare;
mod data_example;
mod earlier_store;
mod embed_mplug_owl2;
mod evaluate;
mod experiments;
mod extract_maniqa;
mod features;
mod fusion;
mod ingest;
mod joint;
mod kernel_ridge;
mod maniqa;
mod metrics;
mod mplug_owl2;
mod networks;
mod nss;
mod pipeline;
mod predict;
mod query;
mod schemas;
mod scored;
mod settings;
mod setup;
mod splits;
mod store;
mod synth;
mod tables;
mod train;
mod version1;
mod weights;
