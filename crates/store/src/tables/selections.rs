//! `selections`: the ranked images of a corpus' night, one row per image that has a group and a score;
//! `selections/scorer=<scorer>/corpus=<corpus>/night=<night>/part-<16 hex>.parquet`.
//!
//! The columns that form the groups name the part, so that another selection by the same columns replaces it.

use super::night_scores::ScoredNight;
use super::{
    Column, ColumnType, integer_array, optional_integer_array, optional_real_array, optional_text_array, real_array,
    text_array,
};
use crate::identity::{Fingerprint, ImageId};
use crate::store::Store;
use crate::store::part::{self, PartError, PartKind};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "selections", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("scorer", "run, group of runs, method or rating that scored"),
    Column::partition("corpus", "corpus"),
    Column::partition("night", "label of the night"),
    Column::required("by", ColumnType::Text, "columns whose values form the groups, separated by commas"),
    Column::required("group", ColumnType::Text, "value of that column; of several columns a JSON array"),
    Column::optional("group_id", ColumnType::Text, "equal for images that differ in their seed only"),
    Column::optional("prompt", ColumnType::Text, "text that the image was made from"),
    Column::optional("generator", ColumnType::Text, "model that made the image"),
    Column::required("image_id", ColumnType::Text, "identity of the image"),
    Column::required("uri", ColumnType::Text, "address of the image, see table `inventory`"),
    Column::required("rank", ColumnType::Integer, "rank in the group, from 1"),
    Column::required("n_candidates", ColumnType::Integer, "number of ranked images of the group"),
    Column::required(
        "score",
        ColumnType::Real,
        "score; higher is better: lower-is-better scores have their sign changed",
    ),
    Column::optional("margin", ColumnType::Real, "score minus the next one's in the group; null for the last"),
    Column::optional("uncertain", ColumnType::Integer, "1 if the scorer's error may explain the margin, else 0"),
    Column::required("chosen", ColumnType::Integer, "1 if the image is among the best of its group, else 0"),
];

/// One ranked image.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionRow<'a> {
    /// The value of the columns that form the groups.
    pub group: String,
    /// Equal for images that differ in their seed only.
    pub group_id: Option<String>,
    /// The prompt.
    pub prompt: Option<&'a str>,
    /// Model that made the image.
    pub generator: Option<&'a str>,
    /// Identity of the image.
    pub image_id: ImageId,
    /// Address.
    pub uri: &'a str,
    /// Rank in the group, from 1.
    pub rank: usize,
    /// Number of ranked images of the group.
    pub n_candidates: usize,
    /// The score. Higher is better.
    pub score: f64,
    /// The score minus the next one's.
    pub margin: Option<f64>,
    /// Whether the scorer's error may explain the margin, if that error is known.
    pub is_uncertain: Option<bool>,
    /// Whether it is among the best of its group.
    pub is_chosen: bool,
}

/// Replaces the rows of `night` with groups by the columns `by`.
pub fn write(store: &Store, night: &ScoredNight, by: &str, rows: &[SelectionRow<'_>]) -> Result<(), PartError> {
    let ids: Vec<String> = rows.iter().map(|row| row.image_id.to_string()).collect();
    let integer = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let columns = vec![
        text_array(rows.iter().map(|_| by)),
        text_array(rows.iter().map(|row| row.group.as_str())),
        optional_text_array(rows.iter().map(|row| row.group_id.as_deref())),
        optional_text_array(rows.iter().map(|row| row.prompt)),
        optional_text_array(rows.iter().map(|row| row.generator)),
        text_array(ids.iter().map(String::as_str)),
        text_array(rows.iter().map(|row| row.uri)),
        integer_array(rows.iter().map(|row| integer(row.rank))),
        integer_array(rows.iter().map(|row| integer(row.n_candidates))),
        real_array(rows.iter().map(|row| row.score)),
        optional_real_array(rows.iter().map(|row| row.margin)),
        optional_integer_array(rows.iter().map(|row| row.is_uncertain.map(i64::from))),
        integer_array(rows.iter().map(|row| i64::from(row.is_chosen))),
    ];
    let batch = part::batch(KIND.table, super::schema_of(COLUMNS), columns)?;
    let name = Fingerprint::builder("selection").field("by", by.as_bytes()).finish().short();
    part::write(store, KIND, &format!("{}/part-{name}.parquet", night.folder(KIND.table)), &batch, None).map(|_| ())
}
