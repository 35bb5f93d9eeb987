//! Derived parts: the fingerprint in a part tells whether it was computed from the current inputs.

use super::part::{self, PartError, PartKind};
use super::{Store, StoreError};
use crate::identity::Fingerprint;

/// The state of a derived part: its fingerprint compared with the fingerprint of the current inputs and settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    /// The part was computed from the current inputs.
    Current,
    /// The part does not exist.
    Absent,
    /// The part is damaged, or belongs to another table or version. It will be replaced.
    Unreadable,
    /// The part was computed from other inputs.
    Outdated,
}

impl Derived {
    /// The state of the part of `kind` at `path`. Only its footer is read.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn of(store: &Store, path: &str, kind: PartKind, fingerprint: Fingerprint) -> Result<Self, StoreError> {
        Ok(match part::written_fingerprint(store, path, kind) {
            Ok(Some(found)) if found == fingerprint.to_string() => Self::Current,
            Ok(Some(_)) => Self::Outdated,
            Ok(None) if store.exists(path)? => Self::Outdated,
            Ok(None) => Self::Absent,
            Err(PartError::Store(error)) => return Err(error),
            Err(_) => Self::Unreadable,
        })
    }

    /// Whether the part is up to date.
    pub fn is_current(self) -> bool {
        self == Self::Current
    }

    /// The state in words, to follow the name of the table.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Current => "is up to date",
            Self::Absent => "is missing",
            Self::Unreadable => "cannot be read",
            Self::Outdated => "belongs to other inputs or settings",
        }
    }
}
