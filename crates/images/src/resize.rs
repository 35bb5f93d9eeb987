//! Resizing of 8-bit RGB.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use super::RgbImage8;

/// Convolution kernel. When an image shrinks, the kernel is stretched by the scale (antialiasing).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeFilter {
    /// Triangle.
    Bilinear,
    /// Keys' cubic, a = -0.5.
    Bicubic,
    /// Windowed sinc of three lobes.
    Lanczos3,
}

/// Resizes `image` to `width_px` × `height_px`. The aspect ratio may change.
///
/// # Panics
/// If a side of the target is 0.
pub fn resize(image: &RgbImage8, width_px: u32, height_px: u32, filter: ResizeFilter) -> RgbImage8 {
    assert!(width_px > 0 && height_px > 0, "an image has at least one pixel");
    if (image.width_px, image.height_px) == (width_px, height_px) {
        return image.clone();
    }
    let filter = match filter {
        ResizeFilter::Bilinear => FilterType::Bilinear,
        ResizeFilter::Bicubic => FilterType::CatmullRom,
        ResizeFilter::Lanczos3 => FilterType::Lanczos3,
    };
    let mut pixels = vec![0; 3 * width_px as usize * height_px as usize];
    let source = TypedImageRef::<U8x3>::from_buffer(image.width_px, image.height_px, &image.pixels)
        .expect("an RgbImage8 has three bytes a pixel");
    let mut target = TypedImage::<U8x3>::from_buffer(width_px, height_px, &mut pixels).expect("of the target's size");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    // Typed, because the untyped call compiles the kernels of all types of pixels.
    Resizer::new().resize_typed(&source, &mut target, &options).expect("no part of the image is cropped");
    RgbImage8 { width_px, height_px, pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_image_stays_constant() {
        let image = RgbImage8 { width_px: 7, height_px: 5, pixels: [10, 128, 255].repeat(35) };
        for filter in [ResizeFilter::Bilinear, ResizeFilter::Bicubic, ResizeFilter::Lanczos3] {
            let resized = resize(&image, 13, 3, filter);
            assert_eq!(resized.pixels, [10, 128, 255].repeat(39));
        }
    }
}
