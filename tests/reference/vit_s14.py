"""Makes vit_s14.json: what PyTorch computes with a vision transformer of DINOv2's size, ViT-S/14, at some points.

    python tests/reference/vit_s14.py      # numpy 2.4.6, torch 2.15.0

Its 22 million weights follow from their names by `rule.py`, so that none are stored or fetched. The form of the file, and
the input, are those of `dinov2_s14.py`, which has the published weights. 64-bit floats.
"""

from pathlib import Path

import numpy as np
import torch

import maniqa
import rule

SEED = 33
BLOCKS = (0, 5, 11)
CHANNELS = (0, 1, 100, 200, 383)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
CONFIG = {
    "vit": {
        "img_size": 224, "patch_size": 14, "embed_dim": 384, "num_heads": 6, "mlp_ratio": 4.0, "layer_norm_eps": 1e-6,
        "taps": [11], "layer_scale": True, "position_grid": 37,
    },
    "embed_dim": 8, "depths": [], "num_heads": [], "num_tab": 0, "semantic_dim": 1, "fusion_dim": 1,
}  # fmt: skip


def pixels(side):
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    values = (x * 3 + y * 5 + c * 40 + (x // 24) * (y // 40) * 17) % 256
    normalised = (values.astype(np.float32) / np.float32(255) - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)[None]))


def main():
    torch.set_num_threads(2)
    shapes = {name: shape for name, shape in maniqa.shapes(CONFIG).items() if name.startswith("vit.")}
    # Named as timm names them.
    w = {name: torch.from_numpy(rule.fill(name[4:], shape, SEED)).double() for name, shape in shapes.items()}
    single = {name: xs.float() for name, xs in w.items()}
    cases = []
    for side in (56, 224):
        outputs, of_single = {}, {}
        maniqa.vit_forward(w, CONFIG, pixels(side).double(), lambda name, xs: outputs.update({name: xs}))
        maniqa.vit_forward(single, CONFIG, pixels(side), lambda name, xs: of_single.update({name: xs}))
        kept = {f"block.{i}": outputs[f"vit.block{i}"] for i in BLOCKS}
        off = (of_single["vit.block11"] - kept["block.11"]).abs().max() / kept["block.11"].abs().max()
        print(f"{side} px: 32-bit floats differ by {off.item():e}")
        for name, xs in kept.items():
            tokens = [0, 1, xs.shape[1] // 2, xs.shape[1] - 1]
            cases.append(
                {
                    "side_px": side,
                    "output": name,
                    "n_tokens": xs.shape[1],
                    "rms": xs.square().mean().sqrt().item(),
                    "max": xs.abs().max().item(),
                    "tokens": tokens,
                    "channels": list(CHANNELS),
                    "values": [[round(xs[0, t, c].item(), 7) for c in CHANNELS] for t in tokens],
                }
            )
    rule.write_json(Path(__file__).resolve().parent / "vit_s14.json", cases)


if __name__ == "__main__":
    main()
