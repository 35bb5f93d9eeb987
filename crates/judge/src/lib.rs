//! Judging scores. [`metrics`] are pure functions of scores and mean opinion scores. [`evaluate`] applies them to the
//! store's tables. [`compare`] compares methods. [`scorer`] reads the
//! scores of one, by which [`select`] chooses the best images and [`check`] says whether all are
//! as good as they should be; [`night`] keeps their statistics. [`experiment`] computes a table of the [`paper`].

pub mod metrics;

pub mod paper;

pub mod evaluate;

pub mod compare;

pub mod scorer;

pub mod select;

pub mod check;

pub mod night;

pub mod experiment;
