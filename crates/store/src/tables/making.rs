//! Columns that say how an image was made: from its own file, from one next to it, or from a list.

use arrow::array::ArrayRef;

use super::{Column, ColumnType, Columns, optional_text_array, text_at};
use crate::store::part::PartError;

/// The columns.
pub const COLUMNS: [Column; 10] = [
    Column::optional("prompt", ColumnType::Text, "text that the image was made from"),
    Column::optional("generator", ColumnType::Text, "model that made the image; the model if nothing else is known"),
    Column::optional("negative_prompt", ColumnType::Text, "text that the image was to avoid"),
    Column::optional("seed", ColumnType::Text, "seed"),
    Column::optional("model", ColumnType::Text, "model as the tool names it"),
    Column::optional("sampler", ColumnType::Text, "sampler"),
    Column::optional("tool", ColumnType::Text, "program that made the image"),
    Column::optional("group_id", ColumnType::Text, "equal for images that differ in their seed only"),
    Column::optional("prompt_source", ColumnType::Text, "`column`, `sidecar`, `embedded`, `ambiguous` or `none`"),
    Column::optional(
        "declared_synthetic",
        ColumnType::Text,
        "IPTC source type that declares a model's work, or `c2pa`",
    ),
];

/// How an image was made. Absent values are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// The prompt.
    pub prompt: Option<String>,
    /// The model, in the words of the corpus.
    pub generator: Option<String>,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// The seed.
    pub seed: Option<String>,
    /// The model, in the words of the tool.
    pub model: Option<String>,
    /// The sampler.
    pub sampler: Option<String>,
    /// The program.
    pub tool: Option<String>,
    /// Equal for images that differ in their seed only.
    pub group_id: Option<String>,
    /// Where the prompt comes from.
    pub prompt_source: Option<String>,
    /// What declares a model's work.
    pub declared_synthetic: Option<String>,
}

impl Making {
    /// The values in the order of [`COLUMNS`].
    pub fn values(&self) -> [Option<&str>; COLUMNS.len()] {
        [
            &self.prompt,
            &self.generator,
            &self.negative_prompt,
            &self.seed,
            &self.model,
            &self.sampler,
            &self.tool,
            &self.group_id,
            &self.prompt_source,
            &self.declared_synthetic,
        ]
        .map(Option::as_deref)
    }

    /// The fields in the order of [`COLUMNS`].
    fn fields_mut(&mut self) -> [&mut Option<String>; COLUMNS.len()] {
        [
            &mut self.prompt,
            &mut self.generator,
            &mut self.negative_prompt,
            &mut self.seed,
            &mut self.model,
            &mut self.sampler,
            &mut self.tool,
            &mut self.group_id,
            &mut self.prompt_source,
            &mut self.declared_synthetic,
        ]
    }

    /// An array for each column.
    pub(super) fn arrays<'a>(rows: impl Iterator<Item = Option<&'a Self>> + Clone) -> Vec<ArrayRef> {
        let values: Vec<_> = rows.map(|row| row.map_or([None; COLUMNS.len()], Self::values)).collect();
        (0..COLUMNS.len()).map(|column| optional_text_array(values.iter().map(|row| row[column]))).collect()
    }

    /// The values by row.
    pub(super) fn of_columns<'a>(columns: &Columns<'a>) -> Result<impl Fn(usize) -> Self + use<'a>, PartError> {
        let arrays = COLUMNS.iter().map(|column| columns.text(column.name)).collect::<Result<Vec<_>, _>>()?;
        Ok(move |row| {
            let mut making = Self::default();
            making.fields_mut().into_iter().zip(&arrays).for_each(|(field, array)| *field = text_at(array, row));
            making
        })
    }
}
