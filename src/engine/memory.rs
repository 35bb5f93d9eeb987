//! The number of images that a device's memory holds at once.

use std::error::Error;

use super::guest::{Batch, BatchSize, GuestError, InputSize, Network};
use agiqa_images::RgbImage8;
use agiqa_nets::device::Memory;

/// Numbers of images of the two batches that are measured. The difference of their peaks gives an image's share.
const MEASURED: [usize; 2] = [2, 6];

/// Share of the free memory that batches may take, in percent. Caches of libraries and fragments take the rest.
const USABLE_PERCENT: u64 = 85;

/// Side of the picture that an input is made of for the measurement, pixels. Every network accepts it.
const SIDE_PX: u32 = 512;

/// The room for batches in a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that a batch takes for each image.
    per_image: u64,
    /// Bytes that any batch takes.
    fixed: u64,
    /// Bytes free for batches.
    free: u64,
}

impl Room {
    /// From the bytes that batches of [`MEASURED`] images take.
    fn of(taken: [u64; 2], free: u64) -> Self {
        let n = MEASURED.map(|n| n as u64);
        let per_image = (taken[1].saturating_sub(taken[0]) / (n[1] - n[0])).max(1);
        Self { per_image, fixed: taken[0].saturating_sub(n[0] * per_image), free: free / 100 * USABLE_PERCENT }
    }

    /// The greatest number of images.
    fn n_images(self) -> usize {
        usize::try_from(self.free.saturating_sub(self.fixed) / self.per_image).unwrap_or(usize::MAX).max(1)
    }
}

/// The batch size for a network, and a message to the user about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) n_images: usize,
    pub(super) note: Option<String>,
    pub(super) warning: Option<String>,
}

/// The batch size within `room`. A preferred size shrinks to the next power of two that fits, so that machines of one
/// kind choose the same; a size that the user asked for is kept, since halving comes to its aid.
pub(super) fn choose(wanted: BatchSize, room: Option<Room>) -> Chosen {
    let plain = |n_images| Chosen { n_images, note: None, warning: None };
    let (BatchSize::Asked(n) | BatchSize::Preferred(n)) = wanted;
    let Some(room) = room else { return plain(n) };
    let (fits, gigabytes) = (room.n_images(), room.free as f64 / 1e9);
    let megabytes = room.per_image as f64 / 1e6;
    let because = format!("{gigabytes:.1} GB are free for batches, and an image takes {megabytes:.0} MB");
    match wanted {
        BatchSize::Asked(asked) if asked > fits => Chosen {
            warning: Some(format!(
                "`batch_size = {asked}` is more than fits: the device has room for {fits} images at once ({because})"
            )),
            ..plain(asked)
        },
        BatchSize::Asked(asked) => plain(asked),
        BatchSize::Preferred(preferred) => {
            let power = 1 << fits.ilog2();
            let n_images = if preferred <= fits { preferred } else { power };
            let note = format!("batches of {n_images} images: {because}, so that {fits} would fit");
            Chosen { note: Some(note), ..plain(n_images) }
        }
    }
}

/// Measures the room for batches of `network`: `None` on a CPU, where inputs vary in size, and where the measurement
/// fails, e.g. because not even these few images fit.
pub(super) fn measured(network: &mut dyn Network) -> Option<Room> {
    network.memory()?;
    let preprocessor = network.frame().preprocessor.clone();
    if preprocessor.size() == InputSize::Varying {
        return None;
    }
    let n_values = 3 * (SIDE_PX * SIDE_PX) as usize;
    let picture = RgbImage8 { width_px: SIDE_PX, height_px: SIDE_PX, pixels: vec![127; n_values] };
    let input = preprocessor.prepare(&picture).ok()?;
    let mut run = |n_images: usize| -> Result<Option<Memory>, GuestError> {
        let before = network.memory().map_or(0, |memory| memory.allocated);
        network.launch(&Batch { inputs: &vec![input.clone(); n_images], size: n_images })?()?;
        let after = network.memory();
        Ok(after.map(|memory| Memory { peak: memory.peak.saturating_sub(before), ..memory }))
    };
    // The first call makes the libraries take their own memory.
    run(1).ok()?;
    let [first, second] = MEASURED.map(|n_images| run(n_images).ok().flatten());
    let (first, second) = (first?, second?);
    Some(Room::of([first.peak, second.peak], second.free))
}

/// Whether libtorch could not allocate memory, which it reports as text only.
pub fn is_allocation_failure(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<tch::TchError>().is_some_and(|error| tells_of_memory(&error.to_string())) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn tells_of_memory(message: &str) -> bool {
    ["not enough memory", "out of memory", "can't allocate memory"].iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn an_images_share_is_the_difference_of_two_batches() {
        // 3 GB for any batch, 0.1 GB per image.
        let room = Room::of([32 * GB / 10, 36 * GB / 10], 80 * GB);
        assert_eq!(room, Room { per_image: GB / 10, fixed: 3 * GB, free: 68 * GB });
        assert_eq!(room.n_images(), 650);
        assert_eq!(Room { free: GB, ..room }.n_images(), 1, "one image is always tried");
    }

    #[test]
    fn a_preferred_size_shrinks_to_what_fits_and_an_asked_one_is_kept_with_a_warning() {
        let room = |n: u64| Some(Room { per_image: GB, fixed: 0, free: n * GB });
        let chosen = choose(BatchSize::Preferred(64), room(100));
        assert_eq!((chosen.n_images, chosen.warning), (64, None));
        let chosen = choose(BatchSize::Preferred(64), room(40));
        assert_eq!(chosen.n_images, 32);
        assert!(chosen.note.expect("it says so").contains("batches of 32 images"));
        let chosen = choose(BatchSize::Asked(64), room(40));
        assert_eq!(chosen.n_images, 64);
        assert!(chosen.warning.expect("a warning").contains("room for 40 images"));
        assert_eq!(choose(BatchSize::Asked(7), room(40)), Chosen { n_images: 7, note: None, warning: None });
        assert_eq!(choose(BatchSize::Preferred(5), None), Chosen { n_images: 5, note: None, warning: None });
    }
}
