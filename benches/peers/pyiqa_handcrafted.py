"""BRISQUE, NIQE and ILNIQE by pyiqa's own functions: what `agiqa baseline` is compared with.

    python benches/peers/pyiqa_handcrafted.py PARAMS IMAGES N [--methods brisque,niqe,ilniqe] [--threads 2]
    agiqa baseline --methods METHOD --params PARAMS --images IMAGES --store STORE --threads 2

PARAMS is the folder that `agiqa baseline` reads. pyiqa would download its own copies of the same parameters; here its
functions get them from that folder: NIQE's and ILNIQE's files as they are, BRISQUE's support vectors out of libsvm's text.
Images are read with Pillow, as pyiqa does, one after another: pyiqa has no other way for images of different sizes, and
its threads are torch's. Prints one JSON object a method: images, seconds an image with decoding, images/s, mean score.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from PIL import Image
from pyiqa.archs.brisque_arch import brisque
from pyiqa.archs.niqe_arch import ILNIQE, NIQE


def support_vectors(path):
    """Coefficients (n,) and vectors (n, 36) of a libsvm model."""
    _, body = path.read_text().split("SV\n", 1)
    rows = [line.split() for line in body.splitlines() if line.strip()]
    vectors = np.zeros((len(rows), 36))
    for row, (_, *entries) in enumerate(rows):
        for number, value in (entry.split(":") for entry in entries):
            vectors[row, int(number) - 1] = float(value)
    return torch.tensor([float(row[0]) for row in rows]), torch.tensor(vectors, dtype=torch.float32)


def scorer(method, params):
    if method == "brisque":
        sv_coef, sv = support_vectors(params / "brisque_allmodel")
        return lambda xs: brisque(xs, sv_coef=sv_coef, sv=sv)
    if method == "niqe":
        return NIQE(pretrained_model_path=str(params / "niqe_modelparameters.mat"))
    if method == "ilniqe":
        return ILNIQE(pretrained_model_path=str(params / "ilniqe_templateModel.mat"))
    raise SystemExit(f"unknown method {method}")


def read(path):
    """(1, 3, height, width) in 0..1."""
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("params", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--methods", default="brisque,niqe,ilniqe")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in endings)[: args.n]
    for method in args.methods.split(","):
        score = scorer(method, args.params)
        with torch.no_grad():
            score(read(paths[0]))  # what is only done once is not measured
            scores = []
            loop = time.perf_counter()
            for path in paths:
                scores.append(float(score(read(path))))
            elapsed = time.perf_counter() - loop
        print(
            json.dumps(
                {
                    "method": method,
                    "n_images": len(paths),
                    "secs_per_image": round(elapsed / len(paths), 4),
                    "images_per_sec": round(len(paths) / elapsed, 3),
                    "mean_score": round(float(np.mean(scores)), 4),
                }
            ),
            flush=True,
        )


main()
