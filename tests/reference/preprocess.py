"""Makes images/ and preprocess.safetensors: small picture files, and what Pillow and OpenCV make of them.

    python tests/reference/preprocess.py    # numpy 2.4.6, opencv-python-headless 5.0.0.93, pillow 13.0.0

Of each image: `decoded`, the 8-bit RGB that Pillow decodes, an alpha channel dropped; `opencv`, that resized by OpenCV's
portable code; `opencv_default`, by the code of the wheel for x86-64; `padded` and `pillow`, as mPLUG-Owl2 takes it: in the middle of a square
of the mean colour, then resized.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import rule

HERE = Path(__file__).resolve().parent
# Name, width, height, channels, how it is stored, and the size that OpenCV gives it.
IMAGES = [
    ("wide.png", 61, 35, 3, {}, (28, 24)),
    ("alpha.png", 20, 33, 4, {}, (28, 28)),
    ("grey.png", 32, 32, 1, {}, (17, 40)),
    ("halved_colour.jpg", 48, 40, 3, {"quality": 88, "subsampling": "4:2:0"}, (31, 26)),
    ("whole_colour.jpg", 37, 29, 3, {"quality": 75, "subsampling": "4:4:4"}, (50, 13)),
]
SIDE = 32
MEAN = (0.48145466, 0.4578275, 0.40821073)


def smooth(pixels):
    """What a JPEG is for: without the noise."""
    return np.asarray(Image.fromarray(pixels).resize((9, 9), Image.Resampling.BOX).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))


def rgb(path):
    image = Image.open(path)
    if image.mode == "RGBA":
        image = Image.merge("RGB", image.split()[:3])
    return np.asarray(image.convert("RGB"))


def padded(pixels):
    height, width, _ = pixels.shape
    side = max(width, height)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(mean * 255) for mean in MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def for_mplug_owl2(path):
    return np.asarray(Image.fromarray(padded(rgb(path))).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def main():
    tensors = {}
    (HERE / "images").mkdir(exist_ok=True)
    for name, width, height, channels, options, size in IMAGES:
        path = HERE / "images" / name
        pixels = rule.picture(name, width, height, channels)
        if path.suffix == ".jpg":
            pixels = smooth(pixels)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path, **options)
        path.chmod(0o644)
        decoded = rgb(path)
        resized = {}
        for which, vendor in (("opencv", False), ("opencv_default", True)):
            cv2.ipp.setUseIPP(vendor)
            resized[which] = cv2.resize(decoded, size, interpolation=cv2.INTER_CUBIC)
        off = np.abs(resized["opencv"].astype(int) - resized["opencv_default"])
        print(name, path.stat().st_size, "bytes; OpenCV's two differ by at most", off.max(), "in", (off > 0).mean())
        tensors |= {f"{name}.decoded": decoded, f"{name}.padded": padded(decoded), f"{name}.pillow": for_mplug_owl2(path)}
        tensors |= {f"{name}.{which}": pixels for which, pixels in resized.items()}
    rule.write_tensors(HERE / "preprocess.safetensors", tensors)


if __name__ == "__main__":
    main()
