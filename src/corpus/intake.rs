//! Takes up the entries of sources, block by block.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::CorpusError;
use super::known::{Key, Known, key};
use super::rows::{self, NightImage};
use super::stage::CorpusSettings;
use crate::engine::is_of_share;
use agiqa_images::{LeftOut, Reason};
use agiqa_sources::{Entry, Reader, shard_key};
use agiqa_store::identity::ImageId;
use agiqa_store::interrupt::Interrupt;
use agiqa_store::panics;
use agiqa_store::path_text::path_of;
use agiqa_store::stage::StageContext;
use agiqa_store::store::run_log::RowCounts;
use agiqa_store::tables::inventory::{InventoryRow, State};
use agiqa_store::tables::rejects::{self, RejectRow};
use agiqa_store::tables::{PartitionName, images, inventory};

/// Entries that are worked off together.
const BLOCK: usize = 4096;

/// Limits at which parts are written.
const PART_ROWS: usize = 65_536;
const PART_BYTES: usize = 64 << 20;
const PART_AGE: Duration = Duration::from_secs(60);

/// What the address of a container's tear ends with: the container itself has a row of its own.
const TORN: &str = "#torn";

/// Name of the stage in `rejects`.
pub(super) const STAGE: &str = "corpus";

/// An entry, and the container that holds it.
struct Taken {
    entry: Entry,
    container: Option<String>,
}

/// What has been taken up, and what waits.
pub(super) struct Intake<'a> {
    context: &'a StageContext,
    settings: &'a CorpusSettings,
    dataset: &'a PartitionName,
    known: &'a Known,
    reader: Reader,
    /// Addresses that the night has already: images, and rejects.
    recorded: [HashSet<Key>; 2],
    /// Addresses of this run.
    seen: HashSet<Key>,
    block: Vec<Taken>,
    pending: Pending,
    pub(super) rows: RowCounts,
    pub(super) left_out: Vec<LeftOut>,
    /// Whether the present container has members that the inventory has under another one, as with other columns of
    /// images. It is then listed each time.
    has_others: bool,
    /// Entries that name the address of an earlier one.
    pub(super) n_repeated: u64,
    /// Files that have changed since the night recorded them.
    pub(super) n_changed: u64,
    /// Files that were opened.
    pub(super) n_opened: u64,
}

/// Rows that are not in a part yet.
#[derive(Default)]
struct Pending {
    inventory: Vec<InventoryRow>,
    images: Vec<NightImage>,
    rejects: Vec<RejectRow>,
    n_bytes: usize,
    since: Option<Instant>,
}

impl<'a> Intake<'a> {
    /// Reads what the night has already.
    pub(super) fn new(
        context: &'a StageContext,
        settings: &'a CorpusSettings,
        dataset: &'a PartitionName,
        known: &'a Known,
    ) -> Result<Self, CorpusError> {
        let (mut of_images, mut of_rejects) = (HashSet::new(), HashSet::new());
        images::for_each_location(&context.store, dataset, |_, path| _ = of_images.insert(key([path, ""])))?;
        for row in rejects::read_of(&context.store, STAGE, dataset)? {
            of_rejects.extend(row.path.map(|path| key([&path, ""])));
        }
        Ok(Self {
            context,
            settings,
            dataset,
            known,
            reader: Reader::default(),
            recorded: [of_images, of_rejects],
            seen: HashSet::new(),
            block: Vec::new(),
            pending: Pending::default(),
            rows: RowCounts::default(),
            left_out: Vec::new(),
            has_others: false,
            n_repeated: 0,
            n_changed: 0,
            n_opened: 0,
        })
    }

    /// Whether the file with this hash of its address belongs to this share of the work.
    pub(super) fn is_of_share(&self, hash: &ImageId) -> bool {
        self.settings.shard.contains(hash)
    }

    pub(super) fn interrupt(&self) -> Interrupt {
        self.context.interrupt.clone()
    }

    /// Takes `entry`, if it belongs to this share of the work. `container` is the file that holds it.
    pub(super) fn add(&mut self, entry: Entry, container: Option<&str>) -> Result<(), CorpusError> {
        if !is_of_share(self.settings.shard, &entry.uri) {
            return Ok(());
        }
        if !self.seen.insert(key([&entry.uri, ""])) {
            self.n_repeated += 1;
            return Ok(());
        }
        self.block.push(Taken { entry, container: container.map(str::to_owned) });
        if self.block.len() >= BLOCK { self.work_off() } else { Ok(()) }
    }

    /// Takes the members of a container that the inventory knows whole.
    pub(super) fn add_known(&mut self, uri: &str, version: &str) -> Result<(), CorpusError> {
        let places = self.known.members(uri, version).unwrap_or_default();
        for places in places.chunks(BLOCK) {
            for (_, row) in self.known.read_rows(&self.context.store, places)? {
                let key = key([row.uri.trim_end_matches(TORN), ""]);
                if !self.seen.insert(key) {
                    self.n_repeated += 1;
                } else if !self.is_recorded(key) {
                    let (entry, is_known) = (Entry { name: row.name.clone(), ..Entry::default() }, true);
                    self.emit(row, entry, is_known);
                }
            }
            self.flush_if_due()?;
        }
        Ok(())
    }

    /// Writes the row that says that all members of a container are in the inventory.
    pub(super) fn complete(&mut self, uri: String, version: String) -> Result<(), CorpusError> {
        self.work_off()?;
        if self.context.interrupt.is_raised() || std::mem::take(&mut self.has_others) {
            return Ok(());
        }
        let first_night = self.settings.night.night.to_string();
        let name = path_of(&uri).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let row = InventoryRow { uri, version, first_night, name, container: None, state: State::Container };
        self.pending.inventory.push(row);
        Ok(())
    }

    /// Counts an address that the night has already.
    fn is_recorded(&mut self, key: Key) -> bool {
        let is_image = self.recorded[0].contains(&key);
        if is_image {
            self.count(1, 1, 0);
        } else if self.recorded[1].contains(&key) {
            self.count(0, 0, 1);
        } else {
            return false;
        }
        true
    }

    fn count(&mut self, n_out: u64, n_cached: u64, n_rejected: u64) {
        self.rows.n_in += n_out + n_rejected;
        self.rows.n_out += n_out;
        self.rows.n_cached += n_cached;
        self.rows.n_rejected += n_rejected;
    }

    /// Works off the waiting entries: known ones from the inventory, the others from their files.
    pub(super) fn work_off(&mut self) -> Result<(), CorpusError> {
        let (mut known, mut places, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for Taken { mut entry, container } in std::mem::take(&mut self.block) {
            let place = self.known.place(&entry.uri, &entry.version);
            if self.is_recorded(key([&entry.uri, ""])) {
                self.n_changed += u64::from(place.is_none() && entry.problem.is_none());
            } else if let Some(problem) = entry.problem.take() {
                // A tear of a container is a problem of its version: the next night finds it in the inventory.
                let torn = format!("{}{TORN}", entry.uri);
                if let Some(container) = container.filter(|_| self.known.place(&torn, &entry.version).is_none()) {
                    let (kind, message) = (problem.kind.to_owned(), problem.message.clone());
                    let state = State::Rejected { image_id: None, kind, message };
                    self.pending.inventory.push(InventoryRow {
                        uri: torn,
                        version: entry.version.clone(),
                        first_night: self.settings.night.night.to_string(),
                        name: entry.name.clone(),
                        container: Some(container),
                        state,
                    });
                }
                self.reject(None, &entry.uri, entry.row, problem.kind, &problem.message);
            } else if let Some(place) = place {
                places.push(place);
                known.push(Taken { entry, container });
            } else {
                unknown.push(Taken { entry, container });
            }
        }
        for (position, row) in self.known.read_rows(&self.context.store, &places)? {
            let Taken { entry, container } = &mut known[position];
            self.has_others |= container.is_some() && row.container != *container;
            let entry = std::mem::take(entry);
            self.emit(row, entry, true);
        }
        self.flush_if_due()?;
        // Fewer at a time, so that an interrupt and the age of a part are noticed.
        for some in unknown.chunks(256) {
            if self.context.interrupt.is_raised() {
                return Ok(());
            }
            self.open(some)?;
        }
        Ok(())
    }

    fn open(&mut self, some: &[Taken]) -> Result<(), CorpusError> {
        let night = self.settings.night.night.as_str();
        let reader = &self.reader;
        let read = |taken: &Taken| {
            let path = path_of(shard_key(&taken.entry.uri));
            panics::caught(|| panics::of_file(&path, || rows::read(reader, &taken.entry, night)))
        };
        let opened: Vec<_> = some.par_iter().map(read).collect();
        self.n_opened += some.len() as u64;
        for (taken, opened) in some.iter().zip(opened) {
            let Taken { entry, container } = taken;
            match opened {
                Ok(Ok((mut row, warnings))) => {
                    warnings.iter().for_each(|warning| self.context.console.warn(warning));
                    let mut entry = entry.clone();
                    row.container.clone_from(container);
                    // A known container is not listed again, so its columns are kept with what its images say.
                    if let (Some(_), State::Image(file)) = (container, &mut row.state) {
                        let making = std::mem::take(&mut file.making);
                        file.making = rows::with(making, std::mem::take(&mut entry.given), "column");
                    }
                    self.pending.inventory.push(row.clone());
                    self.emit(row, entry, false);
                }
                Ok(Err(error)) => self.reject(None, &entry.uri, entry.row, error.kind(), &error.to_string()),
                Err(panic) => self.reject(None, &entry.uri, entry.row, "internal-error", &panic.to_string()),
            }
        }
        self.flush_if_due()
    }

    /// Adds the row of a file to the night. `entry` has its name there, and what a list says of it.
    fn emit(&mut self, row: InventoryRow, entry: Entry, is_known: bool) {
        match row.state {
            State::Image(mut file) => {
                let is_cached = self.known.has_content(&file.image_id);
                file.making = rows::with(file.making, entry.given, "column");
                self.pending.n_bytes += file.making.values().iter().flatten().map(|text| text.len()).sum::<usize>();
                self.pending.images.push(NightImage { name: entry.name, uri: row.uri, file, is_cached });
                self.count(1, u64::from(is_known), 0);
            }
            State::Rejected { image_id, kind, message } => {
                self.reject(image_id, row.uri.trim_end_matches(TORN), entry.row, &kind, &message);
            }
            State::LeftOut => {
                let path: PathBuf = path_of(&row.uri);
                self.left_out.push(LeftOut { reason: Reason::NotAnImage, path, n_files: 1 });
            }
            State::Container => {}
        }
    }

    fn reject(&mut self, image_id: Option<ImageId>, uri: &str, row: Option<u64>, kind: &str, message: &str) {
        self.count(0, 0, 1);
        let dataset = Some(self.dataset.to_string());
        let reject = RejectRow { dataset, image_id, path: Some(uri.to_owned()), row, ..RejectRow::now(kind, message) };
        self.pending.rejects.push(reject);
    }

    fn flush_if_due(&mut self) -> Result<(), CorpusError> {
        let pending = &mut self.pending;
        let n_rows = pending.inventory.len().max(pending.images.len()).max(pending.rejects.len());
        if n_rows == 0 {
            return Ok(());
        }
        let age = pending.since.get_or_insert_with(Instant::now).elapsed();
        let is_due = n_rows >= PART_ROWS || pending.n_bytes >= PART_BYTES || age >= PART_AGE;
        if is_due { self.flush() } else { Ok(()) }
    }

    /// Writes what waits. The inventory comes first: a killed process then leaves files that need not be opened again.
    pub(super) fn flush(&mut self) -> Result<(), CorpusError> {
        let Pending { inventory, images, rejects, .. } = std::mem::take(&mut self.pending);
        let store = &self.context.store;
        inventory::append(store, &self.settings.night.corpus, &inventory)?;
        images::append_part(store, self.dataset, &rows::table(images))?;
        rejects::append_of(store, STAGE, self.dataset, &rejects)?;
        Ok(())
    }
}
