//! `images/dataset=<dataset>/ingest.json`: the inputs of a dataset's table. A rerun can tell from them whether anything
//! has changed without reading a single image.

use std::fs::Metadata;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::rows::{Candidate, Plan};
use super::settings::IngestSettings;
use super::{IngestError, VERSION};
use agiqa_images::DECODER_VERSION;
use agiqa_store::identity::{Fingerprint, hex};
use agiqa_store::store::Store;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::{PartitionName, images};

/// Inputs and result of the last ingest of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestRecord {
    /// Fingerprint (hex) of the settings and of the rules of this program.
    pub settings: String,
    /// BLAKE3 (hex) of the table file.
    pub table: String,
    /// BLAKE3 (hex) over name, size and modification time of every image file that the table names.
    pub files: String,
    /// Fingerprint (hex) over the three fields above. The part of the `images` table carries it, too.
    pub fingerprint: String,
    /// Numbers of rows.
    pub rows: RowCounts,
}

impl IngestRecord {
    /// A record without row counts yet.
    pub(super) fn new(settings: &IngestSettings, table_hash: &str, stamps: &StampDigest) -> Result<Self, IngestError> {
        let settings = Fingerprint::builder("ingest")
            .json("version", &VERSION)
            .json("decoder", &DECODER_VERSION)
            .json("settings", settings)
            .json("mapping", &settings.mapping()?)
            .finish()
            .to_string();
        let files = stamps.hex();
        let record = Self {
            settings,
            table: table_hash.to_owned(),
            files,
            fingerprint: String::new(),
            rows: RowCounts::default(),
        };
        Ok(Self { fingerprint: record.fingerprint().to_string(), ..record })
    }

    /// Fingerprint of the inputs.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let Self { settings, table, files, fingerprint: _, rows: _ } = self;
        Fingerprint::builder("ingested")
            .field("settings", settings.as_bytes())
            .field("table", table.as_bytes())
            .field("files", files.as_bytes())
            .finish()
    }

    fn path(dataset: &PartitionName) -> String {
        format!("{}/ingest.json", images::prefix(dataset))
    }

    /// The record of `dataset`; `None` if it was never ingested, or if its record has another version's format.
    pub(super) fn read(store: &Store, dataset: &PartitionName) -> Result<Option<Self>, IngestError> {
        let bytes = store.get_if_exists(&Self::path(dataset))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub(super) fn write(&self, store: &Store, dataset: &PartitionName) -> Result<(), IngestError> {
        let json = serde_json::to_vec_pretty(self).expect("a record is plain data");
        Ok(store.put(&Self::path(dataset), json)?)
    }
}

/// Size and modification time, which distinguish a changed file from an unchanged one; `None` if they cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp(Option<(u64, u128)>);

impl FileStamp {
    pub(super) fn of(path: &Path) -> Self {
        let stamp = |metadata: Metadata| {
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            (metadata.len(), modified.map_or(0, |time| time.as_nanos()))
        };
        Self(std::fs::metadata(path).ok().map(stamp))
    }
}

/// Digest over the stamps of all files, in the order of the table.
#[derive(Default)]
pub(super) struct StampDigest(blake3::Hasher);

impl StampDigest {
    pub(super) fn add(&mut self, candidate: &Candidate, FileStamp(stamp): FileStamp) {
        let path = candidate.relative.as_os_str().as_encoded_bytes();
        self.0.update(&(path.len() as u64).to_le_bytes()).update(path);
        let (found, n_bytes, modified) = stamp.map_or((0_u8, 0, 0), |(n_bytes, modified)| (1, n_bytes, modified));
        self.0.update(&[found]).update(&n_bytes.to_le_bytes()).update(&modified.to_le_bytes());
    }

    /// Digest of the files that `plan` names below `folder`; of none if images are not opened.
    pub(super) fn of_plan(plan: &Plan, folder: Option<&Path>) -> Self {
        let mut digest = Self::default();
        let Some(folder) = folder else { return digest };
        for candidate in &plan.candidates {
            digest.add(candidate, FileStamp::of(&candidate.file(folder)));
        }
        digest
    }

    fn hex(&self) -> String {
        hex(self.0.finalize().as_bytes())
    }
}
