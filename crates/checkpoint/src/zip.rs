//! The directory of a zip archive whose members are stored, not compressed, as `torch.save` and
//! `numpy.savez` write them.
//!
//! ```text
//! archive   = { local header, member's bytes } directory [ zip64 end, zip64 locator ] end
//! directory = { entry }           46 bytes, name, extra fields (zip64 sizes and offset), comment
//! ```
//!
//! A member's bytes are located without copying them. The `zip` crate would read each member as a stream. Offsets and
//! lengths are checked against the file before anything is read.

use std::collections::HashMap;
use std::path::Path;

use super::{CheckpointError, ReadAt};

/// The place of a member's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset of its local header.
    header_offset: u64,
    /// Number of its bytes.
    pub n_bytes: u64,
    /// CRC-32 of its bytes, from the directory; 0 if none was computed, which is an option of PyTorch.
    crc32: u32,
}

/// The members of an archive, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Place of each member, by name.
    pub members: HashMap<String, Member>,
}

const END: u32 = 0x0605_4b50;
const ZIP64_LOCATOR: u32 = 0x0706_4b50;
const ZIP64_END: u32 = 0x0606_4b50;
const ENTRY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

/// Bytes of the end record without its comment, which has at most 65535 bytes.
const END_BYTES: usize = 22;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;
const LOCATOR_BYTES: u64 = 20;
const ZIP64_END_BYTES: usize = 56;

/// Largest directory that is read. 100,000 storages have a directory of some 10 MB.
const MAX_DIRECTORY_BYTES: u64 = 256 << 20;

/// Bytes of a member that are read at once for its checksum.
const CHUNK_BYTES: u64 = 4 << 20;

/// Id of the extra field for numbers that do not fit into 32 bits.
const ZIP64_EXTRA: u16 = 1;

impl Directory {
    /// Reads the directory of the archive `source`, called `path` in messages.
    ///
    /// # Errors
    /// The archive is cut short, contradicts itself, spans disks, or has a compressed or encrypted member.
    pub fn read(path: &Path, source: &dyn ReadAt) -> Result<Self, CheckpointError> {
        let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
        let place = locate(path, source)?;
        let bytes = source.read(path, place.offset, place.n_bytes)?;
        let mut members = HashMap::new();
        let mut at = 0;
        for entry_idx in 0..place.n_entries {
            let short = || damaged(format!("entry {entry_idx} of its zip directory is cut short"));
            let fixed = bytes.get(at..at + ENTRY_BYTES).ok_or_else(short)?;
            if u32_at(fixed, 0) != ENTRY {
                return Err(damaged(format!("entry {entry_idx} of its zip directory has no signature")));
            }
            let (flags, method) = (u16_at(fixed, 8), u16_at(fixed, 10));
            let n_name = usize::from(u16_at(fixed, 28));
            let n_extra = usize::from(u16_at(fixed, 30));
            let n_comment = usize::from(u16_at(fixed, 32));
            let name = bytes.get(at + ENTRY_BYTES..at + ENTRY_BYTES + n_name).ok_or_else(short)?;
            let name = String::from_utf8_lossy(name).into_owned();
            let extra_at = at + ENTRY_BYTES + n_name;
            let extra = bytes.get(extra_at..extra_at + n_extra).ok_or_else(short)?;
            at = extra_at + n_extra + n_comment;

            if flags & 1 != 0 {
                return Err(damaged(format!("member `{name}` is encrypted")));
            }
            // TorchScript compresses its programs, which are not read.
            if method != 0 && name.contains("/code/") {
                continue;
            }
            if method != 0 {
                return Err(damaged(format!(
                    "member `{name}` is compressed, which neither `torch.save` nor `numpy.savez` does"
                )));
            }
            let wide = Wide::of(extra);
            let stored = wide.or_narrow(u32_at(fixed, 24));
            let (n_bytes, wide) = stored.ok_or_else(|| damaged(format!("the size of member `{name}` is missing")))?;
            // The compressed size precedes the offset in the extra field. A stored member's two sizes are equal.
            let (_, wide) = wide
                .or_narrow(u32_at(fixed, 20))
                .filter(|(n, _)| *n == n_bytes)
                .ok_or_else(|| damaged(format!("member `{name}` is stored uncompressed, but its two sizes differ")))?;
            let (header_offset, _) = wide
                .or_narrow(u32_at(fixed, 42))
                .ok_or_else(|| damaged(format!("the offset of member `{name}` is missing")))?;
            if header_offset.checked_add(n_bytes).is_none_or(|end| end > source.n_bytes()) {
                let problem = format!("member `{name}` of {n_bytes} bytes at {header_offset} is beyond its end");
                return Err(CheckpointError::Truncated { path: path.to_owned(), n_bytes: source.n_bytes(), problem });
            }
            let member = Member { header_offset, n_bytes, crc32: u32_at(fixed, 16) };
            if members.insert(name.clone(), member).is_some() {
                return Err(damaged(format!("duplicate member `{name}`")));
            }
        }
        Ok(Self { members })
    }

    /// Offset of the first byte of the member `name`, computed from its local header.
    ///
    /// # Errors
    /// The local header is missing, or the bytes reach beyond the file's end.
    pub fn start_of(
        &self,
        path: &Path,
        source: &dyn ReadAt,
        name: &str,
        member: Member,
    ) -> Result<u64, CheckpointError> {
        let header = source.read(path, member.header_offset, LOCAL_BYTES as usize)?;
        if u32_at(&header, 0) != LOCAL {
            let problem = format!("member `{name}` has no local header");
            return Err(CheckpointError::Damaged { path: path.to_owned(), problem });
        }
        let n_skipped = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let start = member.header_offset + LOCAL_BYTES + n_skipped;
        if start.checked_add(member.n_bytes).is_none_or(|end| end > source.n_bytes()) {
            let problem = format!("member `{name}` of {} bytes at {start} is beyond its end", member.n_bytes);
            return Err(CheckpointError::Truncated { path: path.to_owned(), n_bytes: source.n_bytes(), problem });
        }
        Ok(start)
    }

    /// Compares the bytes of every member with their CRC-32 in the directory. Reads the whole file.
    ///
    /// # Errors
    /// The first member, in the order of the file, that has another CRC-32, or that cannot be read.
    pub fn check_sums(&self, path: &Path, source: &dyn ReadAt) -> Result<(), CheckpointError> {
        let damaged = |problem: String| CheckpointError::Damaged { path: path.to_owned(), problem };
        // Overlapping members would multiply the work.
        let n_bytes = self.members.values().fold(0_u64, |n, member| n.saturating_add(member.n_bytes));
        if n_bytes > source.n_bytes() {
            return Err(damaged(format!("its members have {n_bytes} bytes together, more than the file")));
        }
        let mut members: Vec<(&String, Member)> = self.members.iter().map(|(name, member)| (name, *member)).collect();
        members.sort_by_key(|(_, member)| member.header_offset);
        for (name, member) in members.into_iter().filter(|(_, member)| member.crc32 != 0) {
            let start = self.start_of(path, source, name, member)?;
            let mut hasher = crc32fast::Hasher::new();
            let mut n_read = 0;
            while n_read < member.n_bytes {
                let n = (member.n_bytes - n_read).min(CHUNK_BYTES);
                hasher.update(&source.read(path, start + n_read, n as usize)?);
                n_read += n;
            }
            let found = hasher.finalize();
            if found != member.crc32 {
                let expected = member.crc32;
                return Err(damaged(format!("member `{name}`: expected CRC-32 {expected:08x}, found {found:08x}")));
            }
        }
        Ok(())
    }
}

/// The place of the directory and the number of entries that it claims.
struct Place {
    offset: u64,
    n_bytes: usize,
    n_entries: u64,
}

fn locate(path: &Path, source: &dyn ReadAt) -> Result<Place, CheckpointError> {
    let n_file = source.n_bytes();
    let truncated = |problem: &str| CheckpointError::Truncated {
        path: path.to_owned(),
        n_bytes: n_file,
        problem: problem.to_owned(),
    };
    let damaged = |problem: &str| CheckpointError::Damaged { path: path.to_owned(), problem: problem.to_owned() };
    let n_tail = n_file.min((END_BYTES + usize::from(u16::MAX)) as u64) as usize;
    let tail = source.read(path, n_file - n_tail as u64, n_tail)?;
    // The end record is the last one whose comment reaches the end of the file exactly.
    let end = (0..(n_tail + 1).saturating_sub(END_BYTES))
        .rev()
        .find(|&at| u32_at(&tail, at) == END && at + END_BYTES + usize::from(u16_at(&tail, at + 20)) == n_tail)
        .ok_or_else(|| truncated("no end of a zip archive was found"))?;
    let end_offset = n_file - (n_tail - end) as u64;
    let end = &tail[end..];
    let (mut n_entries, mut n_bytes, mut offset) =
        (u64::from(u16_at(end, 10)), u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16)));
    let (disk, directory_disk) = (u16_at(end, 4), u16_at(end, 6));
    let is_wide = n_entries == u64::from(u16::MAX) || n_bytes == u64::from(u32::MAX) || offset == u64::from(u32::MAX);
    if is_wide {
        let at = end_offset.checked_sub(LOCATOR_BYTES).ok_or_else(|| damaged("its zip64 locator is missing"))?;
        let locator = source.read(path, at, LOCATOR_BYTES as usize)?;
        if u32_at(&locator, 0) == ZIP64_LOCATOR {
            let wide = source.read(path, u64_at(&locator, 8), ZIP64_END_BYTES)?;
            if u32_at(&wide, 0) != ZIP64_END {
                return Err(damaged("its zip64 end record has no signature"));
            }
            (n_entries, n_bytes, offset) = (u64_at(&wide, 32), u64_at(&wide, 40), u64_at(&wide, 48));
        }
    } else if disk != 0 || directory_disk != 0 {
        return Err(damaged("it is one part of a zip archive in several parts"));
    }
    if offset.checked_add(n_bytes).is_none_or(|end| end > end_offset) {
        return Err(truncated("its zip directory is beyond its end"));
    }
    if n_bytes > MAX_DIRECTORY_BYTES {
        return Err(damaged(&format!("a zip directory of {n_bytes} bytes is over the limit of {MAX_DIRECTORY_BYTES}")));
    }
    if n_entries > n_bytes / ENTRY_BYTES as u64 {
        return Err(damaged("its zip directory is too small for its number of entries"));
    }
    Ok(Place { offset, n_bytes: n_bytes as usize, n_entries })
}

/// The rest of the zip64 extra field: 64-bit values, in a fixed order, of the fields that say `0xffff_ffff`.
#[derive(Clone, Copy)]
struct Wide<'a> {
    values: &'a [u8],
}

impl<'a> Wide<'a> {
    fn of(mut extra: &'a [u8]) -> Self {
        while let [id_0, id_1, n_0, n_1, rest @ ..] = extra {
            let n = usize::from(u16::from_le_bytes([*n_0, *n_1])).min(rest.len());
            let (values, others) = rest.split_at(n);
            if u16::from_le_bytes([*id_0, *id_1]) == ZIP64_EXTRA {
                return Self { values };
            }
            extra = others;
        }
        Self { values: &[] }
    }

    /// A field's value and the rest of the extra field. The value comes from the extra field if the narrow field says
    /// so.
    fn or_narrow(self, narrow: u32) -> Option<(u64, Self)> {
        if narrow != u32::MAX {
            return Some((u64::from(narrow), self));
        }
        let (value, rest) = self.values.split_at_checked(8)?;
        Some((u64_at(value, 0), Self { values: rest }))
    }
}

// The callers have checked the lengths.

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
