//! What the inventory of a corpus knows, in little memory: places of rows by address and version.

use std::collections::{BTreeMap, HashMap, HashSet};

use agiqa_store::identity::ImageId;
use agiqa_store::store::part::PartError;
use agiqa_store::store::{ObjectInfo, Store};
use agiqa_store::tables::PartitionName;
use agiqa_store::tables::inventory::{self, InventoryKey, InventoryRow};

/// Hash of an address, alone or with a version.
pub(super) type Key = [u8; 16];

/// The hash of `texts`.
pub(super) fn key(texts: [&str; 2]) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(texts[0].len() as u64).to_le_bytes()).update(texts[0].as_bytes()).update(texts[1].as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// Number of a part, and of a row in it.
type RowPlace = (u32, u32);

/// The rows of an inventory.
pub(super) struct Known {
    parts: Vec<ObjectInfo>,
    rows: HashMap<Key, RowPlace>,
    /// The whole containers.
    containers: HashSet<Key>,
    /// The rows of each container's members.
    members: HashMap<Key, Vec<RowPlace>>,
    /// Contents of other nights.
    contents: HashSet<ImageId>,
}

impl Known {
    /// Reads the keys of `corpus`' inventory. `night` is the night that is being taken up.
    pub(super) fn read(store: &Store, corpus: &PartitionName, night: &PartitionName) -> Result<Self, PartError> {
        let parts = inventory::parts(store, corpus)?;
        let mut known = Self {
            parts: Vec::new(),
            rows: HashMap::new(),
            containers: HashSet::new(),
            members: HashMap::new(),
            contents: HashSet::new(),
        };
        for (part, object) in (0..).zip(&parts) {
            let mut row = 0;
            inventory::for_each_key(store, object, |found| {
                known.add(&found, (part, row), night);
                row += 1;
            })?;
        }
        known.parts = parts;
        Ok(known)
    }

    fn add(&mut self, found: &InventoryKey<'_>, place: RowPlace, night: &PartitionName) {
        let InventoryKey { uri, version, is_container, container, image_id, first_night } = *found;
        let is_new = self.rows.insert(key([uri, version]), place).is_none();
        if is_container {
            self.containers.insert(key([uri, version]));
        }
        // A killed run may have written a member that the next run wrote again.
        if let Some(container) = container.filter(|_| is_new) {
            self.members.entry(key([container, version])).or_default().push(place);
        }
        if let Some(image_id) = image_id.filter(|_| first_night != night.as_str()) {
            self.contents.insert(image_id);
        }
    }

    /// The place of the file at `uri` with this `version`.
    pub(super) fn place(&self, uri: &str, version: &str) -> Option<RowPlace> {
        self.rows.get(&key([uri, version])).copied()
    }

    /// The places of the members of a container that is here whole.
    pub(super) fn members(&self, uri: &str, version: &str) -> Option<&[RowPlace]> {
        let key = key([uri, version]);
        self.containers.contains(&key).then(|| self.members.get(&key).map_or(&[][..], Vec::as_slice))
    }

    /// Whether another night has had this content.
    pub(super) fn has_content(&self, image_id: &ImageId) -> bool {
        self.contents.contains(image_id)
    }

    /// The rows at `places`, each with its position in `places`.
    pub(super) fn read_rows(
        &self,
        store: &Store,
        places: &[RowPlace],
    ) -> Result<Vec<(usize, InventoryRow)>, PartError> {
        let mut by_part: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        for (position, (part, row)) in places.iter().enumerate() {
            by_part.entry(*part).or_default().push((*row as usize, position));
        }
        let mut found = Vec::with_capacity(places.len());
        for (part, mut rows) in by_part {
            rows.sort_unstable();
            let numbers: Vec<usize> = rows.iter().map(|(row, _)| *row).collect();
            let read = inventory::read_rows(store, &self.parts[part as usize], &numbers)?;
            found.extend(rows.into_iter().map(|(_, position)| position).zip(read));
        }
        Ok(found)
    }
}
