//! `inventory`: every file that a corpus has had, with what its bytes said; `inventory/corpus=<corpus>/part-<16 hex>.parquet`.
//!
//! A file that is here under its address and version is never opened again. A member of a tar file or a cell of a Parquet
//! file is a row of its own; the row of the file itself ([`State::Container`]) follows when all its members are here. A
//! file that could not be read is not here: it is tried again.

use arrow::array::RecordBatch;

use super::making::{self, Making};
use super::{
    Column, ColumnType, Columns, PartitionName, integer_at, optional_integer_array, optional_text_array, text_array,
    text_at,
};
use crate::identity::ImageId;
use crate::store::part::{self, PartError, PartKind, PartReader};
use crate::store::{ObjectInfo, Store, StoreError};

/// Name and version of the table. Version 1 is the first.
pub const KIND: PartKind = PartKind { table: "inventory", version: 1 };

/// The columns.
pub const COLUMNS: &[Column] = &[
    Column::partition("corpus", "corpus that the file belongs to"),
    Column::required("uri", ColumnType::Text, "address: a path, `PATH#OFFSET+BYTES` or `PATH#COLUMN[ROW]`"),
    Column::required("version", ColumnType::Text, "time of the file's last change and its size"),
    Column::required("state", ColumnType::Text, "`image`, `container`, `left-out` (no image) or `rejected`"),
    Column::required("first_night", ColumnType::Text, "night that the file was first seen in"),
    Column::required("name", ColumnType::Text, "name in its source"),
    Column::optional("container", ColumnType::Text, "address of the tar or Parquet file that holds it"),
    Column::optional("bytes", ColumnType::Integer, "size of the image file, bytes"),
    Column::optional("image_id", ColumnType::Text, "identity of the content"),
    Column::optional("width", ColumnType::Integer, "width, pixels"),
    Column::optional("height", ColumnType::Integer, "height, pixels"),
    Column::optional("format", ColumnType::Text, "file format by content"),
    Column::optional("kind", ColumnType::Text, "kind of error of a rejected file"),
    Column::optional("message", ColumnType::Text, "what was found in a rejected file, and what to do"),
    making::COLUMNS[0],
    making::COLUMNS[1],
    making::COLUMNS[2],
    making::COLUMNS[3],
    making::COLUMNS[4],
    making::COLUMNS[5],
    making::COLUMNS[6],
    making::COLUMNS[7],
    making::COLUMNS[8],
    making::COLUMNS[9],
];

/// What a file is.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every file is an image")]
pub enum State {
    /// An image.
    Image(ImageFile),
    /// A file whose images are all in the inventory.
    Container,
    /// A file that is no image.
    LeftOut,
    /// A file that is meant as an image and is none.
    Rejected {
        /// Identity of the content, if it has any.
        image_id: Option<ImageId>,
        /// Kind of error.
        kind: String,
        /// What was found, and what to do.
        message: String,
    },
}

/// Properties of an image file.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFile {
    /// Identity of the content.
    pub image_id: ImageId,
    /// Size, bytes.
    pub n_bytes: u64,
    /// Width, pixels.
    pub width_px: u32,
    /// Height, pixels.
    pub height_px: u32,
    /// Format by content.
    pub format: String,
    /// What the file says of its making.
    pub making: Making,
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct InventoryRow {
    /// Address.
    pub uri: String,
    /// Time of the last change, and size.
    pub version: String,
    /// Night that the file was first seen in.
    pub first_night: String,
    /// Name in its source.
    pub name: String,
    /// Address of the file that holds it.
    pub container: Option<String>,
    /// What it is.
    pub state: State,
}

fn prefix(corpus: &PartitionName) -> String {
    format!("inventory/corpus={corpus}")
}

/// Adds `rows` as one part, named by its content. Writes nothing if `rows` is empty.
pub fn append(store: &Store, corpus: &PartitionName, rows: &[InventoryRow]) -> Result<(), PartError> {
    if rows.is_empty() {
        return Ok(());
    }
    let batch = to_batch(rows)?;
    let path = format!("{}/part-{}.parquet", prefix(corpus), part::content_name(KIND, &batch)?);
    part::write(store, KIND, &path, &batch, None).map(|_| ())
}

/// The parts of `corpus`.
pub fn parts(store: &Store, corpus: &PartitionName) -> Result<Vec<ObjectInfo>, StoreError> {
    part::list(store, &prefix(corpus))
}

/// What tells the rows of a part apart.
#[derive(Clone, Debug)]
pub struct InventoryKey<'a> {
    /// Address.
    pub uri: &'a str,
    /// Time of the last change, and size.
    pub version: &'a str,
    /// Whether the row is that of a whole container.
    pub is_container: bool,
    /// Address of the file that holds it.
    pub container: Option<&'a str>,
    /// Identity of the content.
    pub image_id: Option<ImageId>,
    /// Night that the file was first seen in.
    pub first_night: &'a str,
}

/// Passes each row of the part `object` to `each`, in order, without the columns that make it large.
pub fn for_each_key(
    store: &Store,
    object: &ObjectInfo,
    mut each: impl FnMut(InventoryKey<'_>),
) -> Result<(), PartError> {
    let names = ["uri", "version", "state", "first_night", "container", "image_id"];
    let mut batches = PartReader::open(store, object, KIND)?.read(Some(&names))?;
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let columns = Columns::new(&batches, &batch);
        let [uris, versions, states, nights, containers, ids] = names.map(|name| columns.text(name));
        let (uris, versions, states, nights, containers, ids) = (uris?, versions?, states?, nights?, containers?, ids?);
        for row in 0..batch.num_rows() {
            each(InventoryKey {
                uri: uris.value(row),
                version: versions.value(row),
                is_container: states.value(row) == CONTAINER,
                container: (!containers.value(row).is_empty()).then(|| containers.value(row)),
                image_id: ids.value(row).parse().ok(),
                first_night: nights.value(row),
            });
        }
    }
    Ok(())
}

/// Reads the rows with the numbers `rows` of the part `object`. The numbers start at 0 and must ascend.
pub fn read_rows(store: &Store, object: &ObjectInfo, rows: &[usize]) -> Result<Vec<InventoryRow>, PartError> {
    let names: Vec<&str> = super::schema_names(COLUMNS);
    let mut batches = PartReader::open(store, object, KIND)?.read_rows(&names, rows)?;
    let mut found = Vec::with_capacity(rows.len());
    while let Some(batch) = batches.next() {
        let batch = batch?;
        append_rows(&mut found, &Columns::new(&batches, &batch), &batch)?;
    }
    Ok(found)
}

const IMAGE: &str = "image";
const CONTAINER: &str = "container";
const LEFT_OUT: &str = "left-out";
const REJECTED: &str = "rejected";

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Image(_) => IMAGE,
            Self::Container => CONTAINER,
            Self::LeftOut => LEFT_OUT,
            Self::Rejected { .. } => REJECTED,
        }
    }

    fn image(&self) -> Option<&ImageFile> {
        match self {
            Self::Image(image) => Some(image),
            Self::Container | Self::LeftOut | Self::Rejected { .. } => None,
        }
    }

    fn image_id(&self) -> Option<ImageId> {
        match self {
            Self::Image(image) => Some(image.image_id),
            Self::Rejected { image_id, .. } => *image_id,
            Self::Container | Self::LeftOut => None,
        }
    }

    fn error(&self) -> [Option<&str>; 2] {
        match self {
            Self::Rejected { kind, message, .. } => [Some(kind), Some(message)],
            Self::Image(_) | Self::Container | Self::LeftOut => [None, None],
        }
    }
}

fn append_rows(found: &mut Vec<InventoryRow>, columns: &Columns<'_>, batch: &RecordBatch) -> Result<(), PartError> {
    let (uris, versions, states) = (columns.text("uri")?, columns.text("version")?, columns.text("state")?);
    let (nights, names, containers) = (columns.text("first_night")?, columns.text("name")?, columns.text("container")?);
    let (n_bytes, ids) = (columns.integers("bytes")?, columns.text("image_id")?);
    let (widths, heights, formats) = (columns.integers("width")?, columns.integers("height")?, columns.text("format")?);
    let (kinds, messages) = (columns.text("kind")?, columns.text("message")?);
    let makings = Making::of_columns(columns)?;
    for row in 0..batch.num_rows() {
        let image_id: Option<ImageId> = text_at(ids, row).and_then(|id| id.parse().ok());
        let number = |array, row| integer_at(array, row).unwrap_or_default();
        let state = match (states.value(row), image_id) {
            (IMAGE, Some(image_id)) => State::Image(ImageFile {
                image_id,
                n_bytes: number(n_bytes, row).try_into().unwrap_or(0),
                width_px: number(widths, row).try_into().unwrap_or(0),
                height_px: number(heights, row).try_into().unwrap_or(0),
                format: text_at(formats, row).unwrap_or_default(),
                making: makings(row),
            }),
            (CONTAINER, _) => State::Container,
            (LEFT_OUT, _) => State::LeftOut,
            (REJECTED, image_id) => State::Rejected {
                image_id,
                kind: text_at(kinds, row).unwrap_or_default(),
                message: text_at(messages, row).unwrap_or_default(),
            },
            (other, _) => return Err(columns.error(row, "state", "a state of a file with its image's id", other)),
        };
        found.push(InventoryRow {
            uri: uris.value(row).to_owned(),
            version: versions.value(row).to_owned(),
            first_night: nights.value(row).to_owned(),
            name: names.value(row).to_owned(),
            container: text_at(containers, row),
            state,
        });
    }
    Ok(())
}

fn to_batch(rows: &[InventoryRow]) -> Result<RecordBatch, PartError> {
    let ids: Vec<Option<String>> = rows.iter().map(|row| row.state.image_id().map(|id| id.to_string())).collect();
    let images: Vec<Option<&ImageFile>> = rows.iter().map(|row| row.state.image()).collect();
    let number = |value: fn(&ImageFile) -> u64| {
        optional_integer_array(images.iter().map(|image| image.and_then(|image| i64::try_from(value(image)).ok())))
    };
    let mut columns = vec![
        text_array(rows.iter().map(|row| row.uri.as_str())),
        text_array(rows.iter().map(|row| row.version.as_str())),
        text_array(rows.iter().map(|row| row.state.name())),
        text_array(rows.iter().map(|row| row.first_night.as_str())),
        text_array(rows.iter().map(|row| row.name.as_str())),
        optional_text_array(rows.iter().map(|row| row.container.as_deref())),
        number(|image| image.n_bytes),
        optional_text_array(ids.iter().map(Option::as_deref)),
        number(|image| image.width_px.into()),
        number(|image| image.height_px.into()),
        optional_text_array(images.iter().map(|image| image.map(|image| image.format.as_str()))),
        optional_text_array(rows.iter().map(|row| row.state.error()[0])),
        optional_text_array(rows.iter().map(|row| row.state.error()[1])),
    ];
    columns.extend(Making::arrays(images.iter().map(|image| image.map(|image| &image.making))));
    part::batch(KIND.table, super::schema_of(COLUMNS), columns)
}
