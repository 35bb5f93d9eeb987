"""A plain PyTorch loop over the weights of `dinov2-s14`: what extraction is compared with.

    python benches/peers/dinov2_pytorch.py vit_s_focus.onnx IMAGES SIDE N [--threads 2] [--batch 1] [--dtype f32]

Decodes and resizes with Pillow, runs all twelve blocks and the final norm in f32 with PyTorch's own operators (one
product for query, key and value, the fused attention), and keeps the class token and the mean token. Prints one JSON
object: images, seconds and images/s of the loop alone, and seconds of the whole process with imports and loading.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import pathlib

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from PIL import Image

PATCH, D, BLOCKS, HEADS, GRID, EPS = 14, 384, 12, 6, 37, 1e-6
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def load(path):
    """Weights by the names of Hugging Face's Dinov2Model; linear weights are found by the bias they are added to."""
    graph = onnx.load(path).graph
    initializers = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    weight_of_product = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in initializers}
    w = {name[len("backbone."):]: t for name, t in initializers.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "Add":
            bias = [name for name in node.input if name.startswith("backbone.") and name in initializers]
            product = [name for name in node.input if name in weight_of_product]
            if bias and product:
                name = bias[0][len("backbone."):-len("bias")] + "weight"
                w[name] = initializers[weight_of_product[product[0]]].T.contiguous()
    for t in initializers.values():
        if list(t.shape) == [1, GRID * GRID, D]:
            w["positions"] = t
    w["class_position"] = next(t for n, t in initializers.items() if list(t.shape) == [1, 1, D] and n.startswith("onnx::"))
    for i in range(BLOCKS):
        p = f"encoder.layer.{i}.attention.attention."
        for field in ("weight", "bias"):
            w[f"{i}.qkv.{field}"] = torch.cat([w[f"{p}{part}.{field}"] for part in ("query", "key", "value")])
    return w


def forward(w, pixels):
    xs = F.conv2d(pixels, w["embeddings.patch_embeddings.projection.weight"], w["embeddings.patch_embeddings.projection.bias"], stride=PATCH)
    b, _, gh, gw = xs.shape
    table = w["positions"].transpose(1, 2).reshape(1, D, GRID, GRID)
    table = F.interpolate(table, size=(gh, gw), mode="bicubic", align_corners=False)
    xs = (xs + table).flatten(2).transpose(1, 2)
    xs = torch.cat([(w["embeddings.cls_token"] + w["class_position"]).expand(b, -1, -1), xs], 1)
    for i in range(BLOCKS):
        p = f"encoder.layer.{i}."
        norm = lambda xs, name: F.layer_norm(xs, (D,), w[p + name + ".weight"], w[p + name + ".bias"], EPS)
        linear = lambda xs, name: F.linear(xs, w[p + name + ".weight"], w[p + name + ".bias"])
        qkv = F.linear(norm(xs, "norm1"), w[f"{i}.qkv.weight"], w[f"{i}.qkv.bias"])
        q, k, v = qkv.view(b, -1, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        ys = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, D)
        xs = xs + linear(ys, "attention.output.dense") * w[p + "layer_scale1.lambda1"]
        ys = linear(F.gelu(linear(norm(xs, "norm2"), "mlp.fc1")), "mlp.fc2")
        xs = xs + ys * w[p + "layer_scale2.lambda1"]
    return F.layer_norm(xs, (D,), w["layernorm.weight"], w["layernorm.bias"], EPS)


def pooled(w, pixels):
    """The class token and the mean token."""
    xs = forward(w, pixels)
    return torch.cat([xs[:, 0], xs[:, 1:].mean(1)], 1)


def read(path, side, dtype, mean, std):
    image = Image.open(path).convert("RGB").resize((side, side), Image.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return ((pixels - mean) / std).to(dtype)


def main(load, pooled, mean, std):
    parser = argparse.ArgumentParser()
    parser.add_argument("onnx")
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("side", type=int)
    parser.add_argument("n", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in endings)[: args.n]
    with torch.no_grad():
        w = {name: t.to(dtype) for name, t in load(args.onnx).items() if t.is_floating_point()}
        loop = time.perf_counter()
        features = []
        for start in range(0, len(paths), args.batch):
            batch = [read(path, args.side, dtype, mean, std) for path in paths[start : start + args.batch]]
            features.append(pooled(w, torch.stack(batch)))
        elapsed = time.perf_counter() - loop
    print(
        json.dumps(
            {
                "n_images": len(paths),
                "loop_secs": round(elapsed, 3),
                "images_per_sec": round(len(paths) / elapsed, 3),
                "process_secs": round(time.perf_counter() - STARTED, 3),
                "mean_feature": float(torch.cat(features).float().mean()),
            }
        )
    )


if __name__ == "__main__":
    main(load, pooled, MEAN, STD)
