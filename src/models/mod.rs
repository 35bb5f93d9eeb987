//! The networks, each beside its configuration and nothing else: no flags, no files, no tables.

pub mod fusion;

pub mod trained_head;
