"""What the reference scripts share: weights from parameter names, pictures from whole numbers, and files.

The rule for a parameter `name` of a shape, and a seed: the 64-bit FNV-1a hash of the name, XOR the seed, starts a
splitmix64 generator; the upper 24 bits of its i-th output are u_i in [0, 1), and c_i = 2 u_i - 1. In row-major order:

    `running_var`, `running_mean`        1 + 0.25 c, 0.1 c           statistics of batch norms
    one dimension, `.weight`             1 + 0.1 c                   scales of norms
    one dimension, `gamma`               0.5 + 0.1 c                 scales of branches
    one dimension, any other name        0.05 c                      biases
    more dimensions, `.weight`           sqrt(3 / fan_in) c          fan_in is the product of all sizes but the first
    more dimensions, any other name      0.1 c                       tokens, tables of positions

`crates/synth` has the same rule in Rust, so that no weights are stored. All arithmetic is that of 32-bit floats.
"""

import json

import numpy as np
from safetensors.numpy import save_file

F32 = np.float32


def generator(name, seed, n):
    """The first n outputs of the generator that the name starts, as 64-bit integers."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state ^ seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def fill(name, shape, seed):
    """The parameter `name`."""
    n = int(np.prod(shape, dtype=np.int64))
    c = F32(2) * ((generator(name, seed, n) >> np.uint64(40)).astype(F32) / F32(2**24)) - F32(1)
    if name.endswith("running_var"):
        offset, scale = 1.0, 0.25
    elif name.endswith("running_mean"):
        offset, scale = 0.0, 0.1
    elif len(shape) < 2:
        if name.endswith(".weight"):
            offset, scale = 1.0, 0.1
        elif name.endswith("gamma"):
            offset, scale = 0.5, 0.1
        else:
            offset, scale = 0.0, 0.05
    elif name.endswith(".weight"):
        offset, scale = 0.0, (3 / np.prod(shape[1:], dtype=np.float64)) ** 0.5
    else:
        offset, scale = 0.0, 0.1
    return (F32(offset) + F32(scale) * c).reshape(shape)


def overridden(values, override):
    """value * mul + add, in 32-bit floats."""
    return values * F32(override.get("mul", 1)) + F32(override.get("add", 0))


def picture(name, width, height, channels=3):
    """An 8-bit picture of bands, blocks and noise that its name decides, (height, width, channels)."""
    a, b, c, d = (int(v % np.uint64(23)) + 3 for v in generator(name, 1, 4))
    y, x, k = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    bands = (x * a + y * b + k * 50) % 160
    blocks = ((x // c + y // d + k) % 2) * 60
    noise = (generator(name, 2, x.size) >> np.uint64(59)).astype(np.int64).reshape(x.shape)
    return np.ascontiguousarray((bands + blocks + noise).astype(np.uint8))


def write_tensors(path, tensors):
    """Writes arrays by name; those of 64-bit floats as 32-bit ones."""
    def stored(value):
        value = np.ascontiguousarray(value)
        return value.astype(F32) if value.dtype == np.float64 else value
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: stored(value) for name, value in sorted(tensors.items())}, str(path))
    path.chmod(0o644)


def write_json(path, value):
    """Writes JSON, an entry of the outermost table or list per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in value.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        lines = [json.dumps(entry, ensure_ascii=False) for entry in value]
        path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
