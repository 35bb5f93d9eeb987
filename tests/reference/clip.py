"""Makes clip.safetensors: the features of a small CLIP image tower, at two sides, with and without mirror images.

    python tests/reference/clip.py      # numpy 2.4.6, pillow 13.0.0, safetensors 0.8.0

The forward pass is written from the published semantics (Hugging Face's `CLIPVisionModel`: no patch bias, a norm before
the first block, quick GELU) and runs in 64-bit floats over weights of 32 bits that `rule.py` makes from names and shapes.
The second side has another grid than the table of positions.
"""

from pathlib import Path

import numpy as np
from PIL import Image

import rule

D, HEADS, BLOCKS, HIDDEN, PATCH, GRID, EPS, SEED = 12, 3, 6, 20, 4, 5, 1e-5, 41
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SIDES = (20, 28)
# The parts of the depth that 9, 11, and 5 and 7 are of 12 blocks.
COLUMNS = {"f_a": (4,), "f_b": (5,), "f_1": (2, 3)}
PICTURES = ("sea", "hills")


def weights():
    def fill(name, *shape):
        found[name] = rule.fill(name, shape, SEED).astype(np.float64)

    found = {}
    p = "vision_model."
    fill(f"{p}embeddings.class_embedding", D)
    fill(f"{p}embeddings.position_embedding.weight", 1 + GRID * GRID, D)
    fill(f"{p}embeddings.patch_embedding.weight", D, 3, PATCH, PATCH)
    norms = [f"{p}pre_layrnorm"] + [f"{p}encoder.layers.{i}.layer_norm{k}" for i in range(BLOCKS) for k in (1, 2)]
    for norm in norms:
        fill(f"{norm}.weight", D)
        fill(f"{norm}.bias", D)
    for i in range(BLOCKS):
        layers = [(f"self_attn.{part}_proj", D, D) for part in ("q", "k", "v", "out")]
        for layer, d_in, d_out in layers + [("mlp.fc1", D, HIDDEN), ("mlp.fc2", HIDDEN, D)]:
            fill(f"{p}encoder.layers.{i}.{layer}.weight", d_out, d_in)
            fill(f"{p}encoder.layers.{i}.{layer}.bias", d_out)
    return found


def normed(xs, weight=1.0, bias=0.0):
    centred = xs - xs.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPS) * weight + bias


def resize_matrix(n_in, n_out):
    """Bicubic with a = -0.75, half-pixel centres, borders repeated, without antialiasing."""

    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros((n_out, n_in))
    for out in range(n_out):
        centre = (out + 0.5) * n_in / n_out - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[out, min(max(tap, 0), n_in - 1)] += kernel(tap - centre)
    return matrix


def forward(w, pixels):
    """Tokens after each block, (1 + n, d), of one picture (3, s, s)."""
    p = "vision_model."
    grid = pixels.shape[1] // PATCH
    patches = pixels.reshape(3, grid, PATCH, grid, PATCH).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
    patches = patches @ w[f"{p}embeddings.patch_embedding.weight"].reshape(D, -1).T
    table = w[f"{p}embeddings.position_embedding.weight"]
    matrix = resize_matrix(GRID, grid)
    positions = np.einsum("ab,cd,bde->ace", matrix, matrix, table[1:].reshape(GRID, GRID, D)).reshape(grid * grid, D)
    class_token = w[f"{p}embeddings.class_embedding"] + table[0]
    xs = np.concatenate([class_token[None], patches + positions])
    xs = normed(xs, w[f"{p}pre_layrnorm.weight"], w[f"{p}pre_layrnorm.bias"])
    outputs = []
    for i in range(BLOCKS):
        layer = f"{p}encoder.layers.{i}"
        linear = lambda xs, name: xs @ w[f"{layer}.{name}.weight"].T + w[f"{layer}.{name}.bias"]
        norm = lambda xs, name: normed(xs, w[f"{layer}.{name}.weight"], w[f"{layer}.{name}.bias"])
        heads = lambda xs: xs.reshape(-1, HEADS, D // HEADS).transpose(1, 0, 2)
        ys = norm(xs, "layer_norm1")
        q, k, v = (heads(linear(ys, f"self_attn.{part}_proj")) for part in "qkv")
        scores = np.exp(q @ k.transpose(0, 2, 1) * (D // HEADS) ** -0.5)
        ys = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, D)
        xs = xs + linear(ys, "self_attn.out_proj")
        hidden = linear(norm(xs, "layer_norm2"), "mlp.fc1")
        xs = xs + linear(hidden / (1 + np.exp(-1.702 * hidden)), "mlp.fc2")
        outputs.append(xs)
    return outputs


def columns(w, pixels):
    tokens = [normed(xs) for xs in forward(w, pixels)]
    statistics = lambda xs: [xs[0], xs[1:].mean(0), xs[1:].std(0, ddof=1)]
    return {name: np.concatenate([s for i in blocks for s in statistics(tokens[i])]) for name, blocks in COLUMNS.items()}


def main():
    w, tensors = weights(), {}
    for name in PICTURES:
        picture = Image.fromarray(rule.picture(name, 45, 32))
        for side in SIDES:
            square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC), np.float32) / np.float32(255)
            pixels = ((square - MEAN) / STD).transpose(2, 0, 1).astype(np.float64)
            plain, mirrored = columns(w, pixels), columns(w, pixels[:, :, ::-1])
            for column in COLUMNS:
                key = column if side == SIDES[0] else f"{column}_{side}"
                tensors[f"{name}.plain.{key}"] = plain[column]
                tensors[f"{name}.mirror.{key}"] = (plain[column] + mirrored[column]) / 2
    rule.write_tensors(Path(__file__).resolve().parent / "clip.safetensors", tensors)


main()
