"""Compares acceptance and pixels of folders of images with Pillow's: `python scripts/compare_with_pillow.py FOLDER...`

Prints the number of files that agree in each folder, and each exception with both decoders' words. Needs Pillow and NumPy,
and builds the example `decoded`.
"""

import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image, ImageFile

CARGO = ["cargo", "build", "--quiet", "--release", "--example", "decoded"]
DECODED = "target/release/examples/decoded"
# The greatest difference of a 16-bit value's high byte from the value divided by 257 and rounded.
MAX_DIFFERENCE_OF_16_BITS = 1


def pillows(path):
    """Pillow's format, mode and 8-bit RGB of the first frame; or its words."""
    try:
        with Image.open(path) as image:
            image.load()
            # A mode of 16 bits is clipped by `convert`, so its high byte is taken instead.
            if image.mode.startswith("I"):
                grey = np.asarray(image).astype(np.int64)
                grey = grey >> 8 if grey.max(initial=0) > 255 or "16" in image.mode else grey
                return image.format, image.mode, np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2)
            # Alpha is dropped, as `agiqa` drops it.
            rgb = image.convert("RGB") if image.mode != "La" else image.convert("LA").convert("RGB")
            return image.format, image.mode, np.asarray(rgb)
    except Exception as error:  # noqa: BLE001: whatever a decoder raises is its refusal
        return f"{type(error).__name__}: {error}"


def compared(folder, out):
    """A word for each file's outcome, and its exceptions."""
    lines = subprocess.run([DECODED, folder, out], check=True, capture_output=True, text=True).stdout.splitlines()
    for i, line in enumerate(map(json.loads, lines)):
        pillow = pillows(pathlib.Path(folder) / line["file"])
        mine = f"{line['kind']}: {line['error']}" if "kind" in line else f"{line['format']} {line['sides']}"
        if "kind" in line:
            same = isinstance(pillow, str)
            words = pillow if same else f"{pillow[0]} {pillow[1]}"
            yield "refused by both" if same else "refused by agiqa alone", line["file"], mine, words
            continue
        if isinstance(pillow, str):
            yield "read by agiqa alone", line["file"], mine, pillow
            continue
        form, mode, theirs = pillow
        width, height = line["sides"]
        ours = np.fromfile(f"{out}/{i}.rgb", np.uint8).reshape(height, width, 3)
        if ours.shape != theirs.shape:
            yield "other sides", line["file"], mine, f"{form} {mode} {theirs.shape[1::-1]}"
            continue
        difference = int(np.abs(ours.astype(int) - theirs).max(initial=0))
        outcome = ["equal", "within a level"][difference] if difference <= MAX_DIFFERENCE_OF_16_BITS else "other pixels"
        yield outcome, line["file"], mine, f"{form} {mode}, differs by up to {difference}"


def main():
    warnings.simplefilter("ignore")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    subprocess.run(CARGO, check=True)
    for folder in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as out:
            outcomes = list(compared(folder, out))
        counts = collections.Counter(outcome for outcome, *_ in outcomes)
        print(f"{folder}: {len(outcomes)} files: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.most_common()))
        for outcome, file, mine, theirs in outcomes:
            if outcome not in ("equal", "refused by both"):
                print(f"  {outcome}: {file}: agiqa: {mine}; Pillow: {theirs}")


if __name__ == "__main__":
    main()
