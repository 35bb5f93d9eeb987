//! Parts: the parquet files of the tables. Each part is whole, self-describing and named by its content.
//!
//! A part's key-value metadata carries `agiqa.table`, `agiqa.schema_version`, `agiqa.version` and `agiqa.created_at`.
//! Parts of derived tables also carry `agiqa.fingerprint`. A reader refuses a part of another table or schema version.

use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use super::{ObjectInfo, Store, StoreError};
use crate::identity::{Fingerprint, hex};

/// Uncompressed size at which a row group ends.
const ROW_GROUP_BYTES: usize = 96 << 20;

/// Metadata key of the fingerprint of a derived part's inputs.
const FINGERPRINT_KEY: &str = "agiqa.fingerprint";

/// The table and the schema version of a part, as its metadata states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartKind {
    /// Name of the table, e.g. `images`.
    pub table: &'static str,
    /// Version of the table's schema.
    pub version: u32,
}

/// A part that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows could not be encoded.
    #[error("cannot encode `{path}` as parquet")]
    Encode { path: String, source: ParquetError },
    /// The rows do not form a batch of the table's schema.
    #[error("rows of table `{table}` do not fit its schema")]
    Batch { table: &'static str, source: arrow::error::ArrowError },
    /// The part is cut short or damaged.
    #[error(
        "`{path}` in store `{url}` is damaged (cut short?): delete it and rerun the stage that wrote it, which \
         recomputes just its rows"
    )]
    Damaged { path: String, url: String, source: ParquetError },
    /// Another process replaced the part during the read.
    #[error("`{path}` in store `{url}` was replaced by another process while it was read: run the command again")]
    Replaced { path: String, url: String },
    /// The part belongs to another table.
    #[error("`{path}` in store `{url}`: expected a part of table `{expected}`, found {found}")]
    WrongTable {
        path: String,
        url: String,
        expected: &'static str,
        /// The table that the file names.
        found: String,
    },
    /// The part has another schema version.
    #[error(
        "`{path}` in store `{url}`: table `{table}` has schema version {found} there, this agiqa reads version \
         {expected}: use the agiqa that wrote it, or delete the part and rerun the stage, which recomputes it"
    )]
    WrongVersion {
        path: String,
        url: String,
        table: &'static str,
        /// The version that this program reads.
        expected: u32,
        /// The version in the file.
        found: String,
    },
    /// A column is missing or has another type.
    #[error("`{path}` in store `{url}`: {problem}")]
    Column {
        path: String,
        url: String,
        /// The column, the expected type, and the existing columns.
        problem: String,
    },
}

/// A name computed from the content of the rows: 16 hex digits over schema and values.
///
/// Writing the same rows again therefore writes the same object.
pub fn content_name(kind: PartKind, batch: &RecordBatch) -> Result<String, PartError> {
    let batch_error = |source| PartError::Batch { table: kind.table, source };
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.table.as_bytes()).update(&kind.version.to_le_bytes());
    let mut stream = StreamWriter::try_new(&mut hasher, &batch.schema()).map_err(batch_error)?;
    stream.write(batch).map_err(batch_error)?;
    stream.finish().map_err(batch_error)?;
    drop(stream);
    Ok(hex(&hasher.finalize().as_bytes()[..8]))
}

/// Encodes `batch` as one parquet file with this program's metadata.
///
/// Vectors (`FixedSizeList<Float32>`) are byte-stream-split and have no dictionary. Their values rarely repeat, and
/// bytes of equal significance compress better when stored together.
pub fn encode(
    kind: PartKind,
    path: &str,
    batch: &RecordBatch,
    fingerprint: Option<Fingerprint>,
) -> Result<Bytes, PartError> {
    encode_with(kind, path, batch, fingerprint, &[])
}

/// As [`encode`], with `notes` as further metadata: keys and values that no reader depends on.
fn encode_with(
    kind: PartKind,
    path: &str,
    batch: &RecordBatch,
    fingerprint: Option<Fingerprint>,
    notes: &[(&str, String)],
) -> Result<Bytes, PartError> {
    let encode_error = |source| PartError::Encode { path: path.to_owned(), source };
    let n_rows = batch.num_rows();
    let row_bytes = batch.get_array_memory_size().div_ceil(n_rows.max(1)).max(1);
    let mut metadata = vec![
        KeyValue::new("agiqa.table".to_owned(), kind.table.to_owned()),
        KeyValue::new("agiqa.schema_version".to_owned(), kind.version.to_string()),
        KeyValue::new("agiqa.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        KeyValue::new("agiqa.created_at".to_owned(), created_at()),
    ];
    if let Some(fingerprint) = fingerprint {
        metadata.push(KeyValue::new(FINGERPRINT_KEY.to_owned(), fingerprint.to_string()));
    }
    metadata.extend(notes.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())));
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("agiqa ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some((ROW_GROUP_BYTES / row_bytes).max(1)))
        .set_key_value_metadata(Some(metadata));
    for field in batch.schema_ref().fields() {
        if let DataType::FixedSizeList(item, _) = field.data_type() {
            let column = ColumnPath::new(vec![field.name().clone(), "list".to_owned(), item.name().clone()]);
            properties = properties
                .set_column_encoding(column.clone(), Encoding::BYTE_STREAM_SPLIT)
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_statistics_enabled(column, parquet::file::properties::EnabledStatistics::None);
        }
    }
    let mut writer =
        ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).map_err(encode_error)?;
    writer.write(batch).map_err(encode_error)?;
    writer.into_inner().map(Bytes::from).map_err(encode_error)
}

/// Writes `batch` to `path` as one whole object, which replaces any old object. Returns the number of bytes.
pub fn write(
    store: &Store,
    kind: PartKind,
    path: &str,
    batch: &RecordBatch,
    fingerprint: Option<Fingerprint>,
) -> Result<u64, PartError> {
    write_with(store, kind, path, batch, fingerprint, &[])
}

/// As [`write()`], with `notes` as further metadata: keys and values that no reader depends on.
pub fn write_with(
    store: &Store,
    kind: PartKind,
    path: &str,
    batch: &RecordBatch,
    fingerprint: Option<Fingerprint>,
    notes: &[(&str, String)],
) -> Result<u64, PartError> {
    let bytes = encode_with(kind, path, batch, fingerprint, notes)?;
    let n_bytes = bytes.len() as u64;
    store.put(path, bytes)?;
    Ok(n_bytes)
}

/// The time of writing. It is the only content of a file that does not follow from its rows. `SOURCE_DATE_EPOCH` (in
/// seconds) fixes it.
fn created_at() -> String {
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or_else(jiff::Timestamp::now)
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Whether `path` is the path of a finished part.
pub fn is_part(path: &str) -> bool {
    path.ends_with(".parquet")
}

/// Finished parts under `prefix`, sorted by path.
pub fn list(store: &Store, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
    Ok(store.list(prefix)?.into_iter().filter(|object| is_part(&object.path)).collect())
}

/// Fingerprint of the inputs of the part at `path`, or `None` if the part does not exist or carries no fingerprint.
///
/// # Errors
/// Fails if the part is damaged, belongs to another table, or has another schema version. The rows are not read.
pub fn written_fingerprint(store: &Store, path: &str, kind: PartKind) -> Result<Option<String>, PartError> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    match list(store, folder)?.iter().find(|object| object.path == path) {
        Some(object) => Ok(PartReader::open(store, object, kind)?.metadata_value(FINGERPRINT_KEY)),
        None => Ok(None),
    }
}

/// A part opened for reading. Its footer has been read, and its table and version match.
pub struct PartReader {
    bytes: PartBytes,
    builder: ParquetRecordBatchReaderBuilder<PartBytes>,
}

impl PartReader {
    /// Opens `object`, which must be a part of `kind`.
    pub fn open(store: &Store, object: &ObjectInfo, kind: PartKind) -> Result<Self, PartError> {
        let (path, url) = (object.path.clone(), store.url().to_owned());
        let mut bytes = PartBytes::new(store, &path, object.n_bytes);
        let mut opened = ParquetRecordBatchReaderBuilder::try_new(bytes.clone());
        if opened.is_err()
            && let Some(n_bytes) = store.n_bytes(&path)?
            && n_bytes != object.n_bytes
        {
            // Another process has replaced the part since it was listed, so its footer has moved.
            bytes = PartBytes::new(store, &path, n_bytes);
            opened = ParquetRecordBatchReaderBuilder::try_new(bytes.clone());
        }
        let builder = opened.map_err(|source| bytes.error(source))?.with_batch_size(8192);
        let reader = Self { bytes, builder };
        match reader.metadata_value("agiqa.table") {
            Some(table) if table == kind.table => {}
            found => {
                let found = found.map_or("no `agiqa.table` in its metadata".to_owned(), |table| format!("`{table}`"));
                return Err(PartError::WrongTable { path, url, expected: kind.table, found });
            }
        }
        match reader.metadata_value("agiqa.schema_version") {
            Some(version) if version == kind.version.to_string() => Ok(reader),
            found => {
                let found = found.unwrap_or_else(|| "unknown".to_owned());
                Err(PartError::WrongVersion { path, url, table: kind.table, expected: kind.version, found })
            }
        }
    }

    /// Value of a metadata key, e.g. `agiqa.fingerprint`.
    pub fn metadata_value(&self, key: &str) -> Option<String> {
        let metadata = self.builder.metadata().file_metadata().key_value_metadata()?;
        metadata.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone())
    }

    /// Fingerprint of the inputs of the part; `None` if it carries none.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.metadata_value(FINGERPRINT_KEY)?.parse().ok()
    }

    /// Arrow schema of the part.
    pub fn schema(&self) -> &SchemaRef {
        self.builder.schema()
    }

    /// Number of rows, from the footer.
    pub fn n_rows(&self) -> u64 {
        self.builder.metadata().file_metadata().num_rows().try_into().unwrap_or(0)
    }

    /// The same in batches of at most `n` rows.
    pub fn in_batches_of(self, n: usize) -> Self {
        Self { builder: self.builder.with_batch_size(n.max(1)), ..self }
    }

    /// Reads `columns` of the rows with the numbers `rows`. The numbers start at 0 and must ascend.
    pub fn read_rows(mut self, columns: &[&str], rows: &[usize]) -> Result<PartBatches, PartError> {
        let n_rows = usize::try_from(self.n_rows()).unwrap_or(usize::MAX);
        let selection = RowSelection::from_consecutive_ranges(rows.iter().map(|row| *row..row + 1), n_rows);
        self.builder = self.builder.with_row_selection(selection);
        self.read(Some(columns))
    }

    /// Reads the part. If `columns` is given, reads only these columns, in the order of the file.
    pub fn read(self, columns: Option<&[&str]>) -> Result<PartBatches, PartError> {
        let Self { bytes, mut builder } = self;
        if let Some(columns) = columns {
            let mut roots = Vec::with_capacity(columns.len());
            for column in columns {
                let index = builder.schema().index_of(column).map_err(|_| {
                    let available = column_names(builder.schema());
                    bytes.column_error(format!("no column `{column}`; the columns are: {available}"))
                })?;
                roots.push(index);
            }
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            builder = builder.with_projection(mask);
        }
        let batches = builder.build().map_err(|source| bytes.error(source))?;
        Ok(PartBatches { bytes, batches })
    }
}

fn column_names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ")
}

/// The batches of one part.
pub struct PartBatches {
    bytes: PartBytes,
    batches: ParquetRecordBatchReader,
}

impl PartBatches {
    /// Path of the part within its store.
    pub fn path(&self) -> &str {
        &self.bytes.path
    }

    /// An error about a column of this part.
    pub fn column_error(&self, problem: String) -> PartError {
        self.bytes.column_error(problem)
    }
}

impl Iterator for PartBatches {
    type Item = Result<RecordBatch, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.map_err(|source| self.bytes.error(ParquetError::from(source))))
    }
}

/// Random access to an object, in the form that the parquet reader needs.
#[derive(Clone)]
struct PartBytes {
    store: Store,
    path: String,
    n_bytes: u64,
    /// The error of the store, if a read failed. It is kept here because the parquet reader turns its causes into text.
    failure: Arc<Mutex<Option<StoreError>>>,
}

impl PartBytes {
    fn new(store: &Store, path: &str, n_bytes: u64) -> Self {
        Self { store: store.clone(), path: path.to_owned(), n_bytes, failure: Arc::default() }
    }

    fn range(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if range.end > self.n_bytes || range.start > range.end {
            return Err(ParquetError::EOF(format!("bytes {}..{} of {}", range.start, range.end, self.n_bytes)));
        }
        let n_wanted = range.end - range.start;
        let bytes = self.store.get_range(&self.path, range).map_err(|error| {
            let message = error.to_string();
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ParquetError::General(message)
        })?;
        let n_found = bytes.len() as u64;
        if n_found < n_wanted {
            return Err(ParquetError::EOF(format!("{n_found} of {n_wanted} bytes")));
        }
        Ok(bytes)
    }

    /// The true error after the parquet reader failed with `source`: the store, another writer, or the part itself.
    fn error(&self, source: ParquetError) -> PartError {
        let (path, url) = (self.path.clone(), self.store.url().to_owned());
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (self.store.n_bytes(&self.path), failure) {
            (Ok(Some(n_bytes)), _) if n_bytes != self.n_bytes => PartError::Replaced { path, url },
            (Ok(_), Some(error)) | (Err(error), _) => PartError::Store(error),
            (Ok(_), None) => PartError::Damaged { path, url, source },
        }
    }

    fn column_error(&self, problem: String) -> PartError {
        PartError::Column { path: self.path.clone(), url: self.store.url().to_owned(), problem }
    }
}

impl Length for PartBytes {
    fn len(&self) -> u64 {
        self.n_bytes
    }
}

impl ChunkReader for PartBytes {
    type T = std::io::BufReader<RangeReader>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let reader = RangeReader { bytes: self.clone(), at: start };
        Ok(std::io::BufReader::with_capacity(64 << 10, reader))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.range(start..start.saturating_add(length as u64))
    }
}

/// Sequential reading of an object by ranges.
pub struct RangeReader {
    bytes: PartBytes,
    at: u64,
}

impl std::io::Read for RangeReader {
    fn read(&mut self, mut buffer: &mut [u8]) -> std::io::Result<usize> {
        // A damaged footer may point past the end of the file.
        let n = self.bytes.n_bytes.saturating_sub(self.at).min(buffer.len() as u64);
        if n == 0 {
            return Ok(0);
        }
        let bytes = self.bytes.range(self.at..self.at + n)?;
        self.at += bytes.len() as u64;
        buffer.write(&bytes)
    }
}

/// A batch of `columns` under `schema`. An error names the table.
pub fn batch(
    table: &'static str,
    schema: SchemaRef,
    columns: Vec<Arc<dyn arrow::array::Array>>,
) -> Result<RecordBatch, PartError> {
    RecordBatch::try_new(schema, columns).map_err(|source| PartError::Batch { table, source })
}
