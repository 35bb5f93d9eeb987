//! Judging scores. [`metrics`] are pure functions of scores and mean opinion scores. [`evaluate`] applies them to the
//! store's tables. [`compare`] compares methods. [`experiment`] computes a table of the [`paper`].

pub mod metrics;

pub mod paper;

pub mod evaluate;

pub mod compare;

pub mod experiment;
