//! `train_log`: the course of a training; `train_log/run=<run>/part-0.parquet`.
//!
//! Each row describes a stretch of steps. A head's training has one row per epoch. A joint training also has rows
//! within epochs, whose validation columns are null. It writes the log with each saved state, so the log exists before
//! the training ends. Seconds count working time only, over all sessions of an interrupted training.

use arrow::array::RecordBatch;

use super::{
    Column, ColumnType, PartitionName, for_each_batch, integer_array, optional_real_array, real_array, real_at,
};
use crate::identity::Fingerprint;
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "train_log", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("run", "run that was trained"),
    Column::required("epoch", ColumnType::Integer, "number of the epoch, from 1"),
    Column::required("step", ColumnType::Integer, "steps done since the training began, at the end of the stretch"),
    Column::required("lr", ColumnType::Real, "learning rate of the last step, before any factor of its layers"),
    Column::required(
        "n_images",
        ColumnType::Integer,
        "training images of the stretch; an image counts each time it is seen",
    ),
    Column::required(
        "loss",
        ColumnType::Real,
        "mean squared error of the head's scores over those images as they were seen, on the scale trained on",
    ),
    Column::optional(
        "validation_srcc",
        ColumnType::Real,
        "SRCC on the validation part; null within an epoch and where undefined",
    ),
    Column::optional(
        "validation_plcc",
        ColumnType::Real,
        "PLCC on the validation part, without any mapping; null within an epoch and where undefined",
    ),
    Column::optional(
        "validation_mse",
        ColumnType::Real,
        "mean squared error on the validation part, MOS scale; null within an epoch",
    ),
    Column::required("seconds", ColumnType::Real, "time at work since the training began, validation included"),
];

/// One stretch of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainLogRow {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Number of steps done at the end of the stretch.
    pub step: u64,
    /// Learning rate of the last step of the stretch.
    pub lr: f64,
    /// Number of training images. An image counts each time that it is used.
    pub n_images: u64,
    /// Mean squared error over these images; finite.
    pub loss: f64,
    /// SRCC on the validation part, at the end of an epoch.
    pub validation_srcc: Option<f64>,
    /// PLCC on the validation part, at the end of an epoch.
    pub validation_plcc: Option<f64>,
    /// Mean squared error on the validation part, at the end of an epoch.
    pub validation_mse: Option<f64>,
    /// Working time in seconds.
    pub seconds: f64,
}

/// Path of a run's log.
pub fn path(run: &PartitionName) -> String {
    format!("train_log/run={run}/part-0.parquet")
}

/// Replaces `run`'s log with `rows`.
pub fn write(
    store: &Store,
    run: &PartitionName,
    rows: &[TrainLogRow],
    fingerprint: Fingerprint,
) -> Result<(), PartError> {
    part::write(store, KIND, &path(run), &to_batch(rows)?, Some(fingerprint)).map(|_| ())
}

/// Reads `run`'s log; empty if it does not exist.
pub fn read(store: &Store, run: &PartitionName) -> Result<Vec<TrainLogRow>, PartError> {
    let mut rows = Vec::new();
    for_each_batch(store, &format!("train_log/run={run}"), KIND, None, |columns, batch| {
        let (epochs, steps) = (columns.integers("epoch")?, columns.integers("step")?);
        let (lr, loss, seconds) = (columns.reals("lr")?, columns.reals("loss")?, columns.reals("seconds")?);
        let n_images = columns.integers("n_images")?;
        let srcc = columns.reals("validation_srcc")?;
        let plcc = columns.reals("validation_plcc")?;
        let mse = columns.reals("validation_mse")?;
        for row in 0..batch.num_rows() {
            let epoch = u32::try_from(epochs.value(row))
                .map_err(|_| columns.error(row, "epoch", "a number from 1", &epochs.value(row).to_string()))?;
            rows.push(TrainLogRow {
                epoch,
                step: steps.value(row).try_into().unwrap_or(0),
                lr: lr.value(row),
                n_images: n_images.value(row).try_into().unwrap_or(0),
                loss: loss.value(row),
                validation_srcc: real_at(srcc, row),
                validation_plcc: real_at(plcc, row),
                validation_mse: real_at(mse, row),
                seconds: seconds.value(row),
            });
        }
        Ok(())
    })?;
    Ok(rows)
}

fn to_batch(rows: &[TrainLogRow]) -> Result<RecordBatch, PartError> {
    let columns = vec![
        integer_array(rows.iter().map(|row| i64::from(row.epoch))),
        integer_array(rows.iter().map(|row| i64::try_from(row.step).unwrap_or(i64::MAX))),
        real_array(rows.iter().map(|row| row.lr)),
        integer_array(rows.iter().map(|row| i64::try_from(row.n_images).unwrap_or(i64::MAX))),
        real_array(rows.iter().map(|row| row.loss)),
        optional_real_array(rows.iter().map(|row| row.validation_srcc)),
        optional_real_array(rows.iter().map(|row| row.validation_plcc)),
        optional_real_array(rows.iter().map(|row| row.validation_mse)),
        real_array(rows.iter().map(|row| row.seconds)),
    ];
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
