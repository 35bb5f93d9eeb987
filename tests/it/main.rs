//! Behaviour of the `agiqa` binary, and of its mathematics against reference numbers. One binary, so that it links once.

mod testdir;

mod baseline;
mod compare;
mod data_example;
mod evaluate;
mod features;
mod ingest;
mod metrics;
mod networks;
mod pipeline;
mod schemas;
mod setup;
mod splits;
mod store;
mod train;
mod weights;
