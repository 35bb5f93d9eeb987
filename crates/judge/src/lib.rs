//! Judging scores: [`metrics`] are pure functions of scores and mean opinion scores, [`evaluate`] applies them to the
//! store's tables, [`compare`] puts methods side by side, [`experiment`] makes a table of the [`paper`] of them.

pub mod metrics;

pub mod paper;

pub mod evaluate;

pub mod compare;

pub mod experiment;
