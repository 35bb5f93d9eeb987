//! Random turns and flips of square 8-bit images.

use rand_mt::Mt64;
use serde::{Deserialize, Serialize};

use super::random;

/// Probability of a turn, and of a flip, as in the published code.
const PROBABILITY: f64 = 0.7;

/// Probability of a flip if images are not turned.
const FLIP_ONLY_PROBABILITY: f64 = 0.5;

/// Random changes of a training image each time it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A turn by 90, 180 or 270 degrees with probability 0.7, and a flip of left and right with probability 0.7.
    #[default]
    Horizontal,
    /// The published code's behaviour: its "horizontal flip" turns the image upside down.
    Official,
    /// A flip of left and right with probability 0.5. Up and down stay in place. This suits trainings that are too
    /// short to learn that orientation does not matter.
    Flip,
    /// Images without changes.
    None,
}

/// Quarter turns to the left, then a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Motion {
    turns: u8,
    flip: Flip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flip {
    None,
    Columns,
    Rows,
}

impl Augment {
    /// Draws a random motion.
    pub fn draw(self, generator: &mut Mt64) -> Motion {
        let mut unit = || random::unit(generator);
        // Every variant takes the same number of draws, so that later draws do not depend on the variant.
        let (turn, by, flip) = (unit(), unit(), unit());
        let turns = if turn < PROBABILITY { 1 + (by * 3.0) as u8 } else { 0 };
        let flip_of = |kind, probability| if flip < probability { kind } else { Flip::None };
        match self {
            Self::None => Motion { turns: 0, flip: Flip::None },
            Self::Flip => Motion { turns: 0, flip: flip_of(Flip::Columns, FLIP_ONLY_PROBABILITY) },
            Self::Horizontal => Motion { turns, flip: flip_of(Flip::Columns, PROBABILITY) },
            Self::Official => Motion { turns, flip: flip_of(Flip::Rows, PROBABILITY) },
        }
    }
}

impl Motion {
    /// No motion.
    pub const STILL: Self = Self { turns: 0, flip: Flip::None };

    /// Writes the moved pixels of a square image of `side` × `side` RGB pixels into `target`.
    pub fn apply(self, source: &[u8], side: usize, target: &mut [u8]) {
        for (place, pixel) in target.chunks_exact_mut(3).enumerate() {
            let (mut row, mut column) = (place / side, place % side);
            match self.flip {
                Flip::None => {}
                Flip::Columns => column = side - 1 - column,
                Flip::Rows => row = side - 1 - row,
            }
            for _ in 0..self.turns {
                // The position of this pixel before a turn to the left.
                (row, column) = (column, side - 1 - row);
            }
            pixel.copy_from_slice(&source[3 * (row * side + column)..][..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(turns: u8, flip: Flip) -> Vec<u8> {
        // 1 2
        // 3 4
        let source: Vec<u8> = [1_u8, 2, 3, 4].iter().flat_map(|level| [*level; 3]).collect();
        let mut target = vec![0; 12];
        Motion { turns, flip }.apply(&source, 2, &mut target);
        target.chunks_exact(3).map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn turns_go_to_the_left_and_flips_are_what_they_say() {
        assert_eq!(moved(0, Flip::None), [1, 2, 3, 4]);
        assert_eq!(moved(1, Flip::None), [2, 4, 1, 3]);
        assert_eq!(moved(2, Flip::None), [4, 3, 2, 1]);
        assert_eq!(moved(3, Flip::None), [3, 1, 4, 2]);
        assert_eq!(moved(0, Flip::Columns), [2, 1, 4, 3]);
        assert_eq!(moved(0, Flip::Rows), [3, 4, 1, 2]);
    }

    #[test]
    fn seven_in_ten_images_are_turned_and_all_three_turns_are_as_frequent() {
        let mut generator = Mt64::new(1);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[usize::from(Augment::Official.draw(&mut generator).turns)] += 1;
        }
        assert!(counts[0] > 2800 && counts[0] < 3200, "{counts:?}");
        assert!(counts[1..].iter().all(|count| (2130..2530).contains(count)), "{counts:?}");
        let flips: Vec<Motion> = (0..10_000).map(|_| Augment::Flip.draw(&mut generator)).collect();
        assert!(flips.iter().all(|motion| motion.turns == 0 && motion.flip != Flip::Rows));
        let n_flipped = flips.iter().filter(|motion| motion.flip == Flip::Columns).count();
        assert!((4800..5200).contains(&n_flipped), "{n_flipped}");
        let still = Augment::None.draw(&mut generator);
        assert_eq!(still, Motion { turns: 0, flip: Flip::None });
    }
}
