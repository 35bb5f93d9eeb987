//! Shards: ranges of the hash space. A store can be resumed with another number of shards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::identity::ImageId;

/// The `k`-th of `n` equal ranges of the hash space of image ids, with `1 <= k <= n`. The text form is `k/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    k: u32,
    n: u32,
}

/// A text that is not a valid shard.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a shard: expected `k/n` with 1 <= k <= n, for example `2/8`")]
pub struct ShardError(String);

impl Shard {
    /// The whole hash space.
    pub const WHOLE: Self = Self { k: 1, n: 1 };

    /// The shard as part of a file's name, `KofN`.
    pub fn in_names(self) -> String {
        format!("{}of{}", self.k, self.n)
    }

    /// Whether `id` belongs to this shard. Every id belongs to exactly one of the `n` shards.
    pub fn contains(&self, id: &ImageId) -> bool {
        let index = (u128::from(id.hash_position()) * u128::from(self.n)) >> 64;
        index == u128::from(self.k - 1)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let error = || ShardError(text.to_owned());
        let (k, n) = text.split_once('/').ok_or_else(error)?;
        let (k, n) = (k.parse::<u32>().map_err(|_| error())?, n.parse::<u32>().map_err(|_| error())?);
        if k == 0 || k > n { Err(error()) } else { Ok(Self { k, n }) }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.k, self.n)
    }
}

impl TryFrom<String> for Shard {
    type Error = ShardError;

    fn try_from(text: String) -> Result<Self, ShardError> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_in_exactly_one_shard() {
        for n in [1, 2, 3, 7, 64] {
            for i in 0..500_u32 {
                let id = ImageId::of_bytes(&i.to_le_bytes());
                let holders = (1..=n).filter(|k| Shard { k: *k, n }.contains(&id)).count();
                assert_eq!(holders, 1, "id {id} in {n} shards");
            }
        }
    }

    #[test]
    fn shards_outside_their_count_are_refused() {
        for text in ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
