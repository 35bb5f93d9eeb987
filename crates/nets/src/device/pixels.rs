//! Normalisation of 8-bit pictures on the network's device.

use tch::{Device, Kind, Tensor};

/// `(pixel / 255 − mean) / std` per channel. On every device the bits are those of [`crate::pixels::normalise`]: the
/// constants are tensors there, because a GPU multiplies by the reciprocal of a number that it gets as an argument.
#[derive(Debug)]
pub struct Normalisation {
    levels: Tensor, // (), f32: 255
    mean: Tensor,   // (3, 1, 1), f32
    std: Tensor,    // (3, 1, 1), f32
}

impl Normalisation {
    /// With these constants, on `device`.
    pub fn new(mean: [f32; 3], std: [f32; 3], device: Device) -> Self {
        let per_channel = |values: [f32; 3]| Tensor::from_slice(&values).view([3, 1, 1]).to_device(device);
        let levels = Tensor::from(255_f32).to_device(device);
        Self { levels, mean: per_channel(mean), std: per_channel(std) }
    }

    /// The same constants in memory, for another thread.
    pub fn share(&self) -> Self {
        let Self { levels, mean, std } = self;
        Self { levels: levels.shallow_clone(), mean: mean.shallow_clone(), std: std.shallow_clone() }
    }

    /// # Shapes
    /// - pixels: `(b, h, w, 3)`, u8
    /// - returns: `(b, 3, h, w)`, f32, contiguous
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let mut planes = pixels.permute([0, 3, 1, 2]).contiguous().to_kind(Kind::Float);
        let _ = planes.g_div_(&self.levels);
        let _ = planes.g_sub_(&self.mean);
        planes.g_div_(&self.std)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::{IMAGENET_MEAN, IMAGENET_STD, Planes};
    use agiqa_images::RgbImage8;

    /// Every level in every channel, with the constants of all networks.
    #[test]
    fn a_device_normalises_to_the_bits_of_the_table() {
        let pixels: Vec<u8> = (0..768_u32).map(|i| (i * 7 % 256) as u8).collect();
        let constants = [(IMAGENET_MEAN, IMAGENET_STD), (crate::clip::MEAN, crate::clip::STD), ([0.5; 3], [0.5; 3])];
        for (mean, std) in constants {
            let image = RgbImage8 { width_px: 16, height_px: 16, pixels: pixels.clone() };
            let expected = Planes::of(&image, mean, std).values;
            let tensor = Tensor::from_slice(&pixels).view([1, 16, 16, 3]);
            let found = Normalisation::new(mean, std, Device::Cpu).forward(&tensor);
            assert_eq!(found.size(), [1, 3, 16, 16]);
            let found = Vec::<f32>::try_from(found.flatten(0, -1)).expect("floats");
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
