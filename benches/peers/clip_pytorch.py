"""A plain PyTorch loop over the weights of `clip-b16`: what extraction is compared with.

    python benches/peers/clip_pytorch.py clip_encoder.int8.onnx IMAGES SIDE N [--threads 2] [--batch 1] [--dtype f32]

The loop is that of `dinov2_pytorch.py`. Matrices of 8 bits become floats when they are read. The network runs in f32 with
PyTorch's own operators (one product for query, key and value, the fused attention). It keeps the class token, the mean and
the deviation of the patches of blocks 5, 7, 9 and 11, each token layer-normalised without weights: the columns of `clip-b16`.
"""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from dinov2_pytorch import main

PATCH, D, BLOCKS, HEADS, GRID, EPS = 16, 768, 12, 12, 14, 1e-5
POOLED = (5, 7, 9, 11)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def load(path):
    """Weights by the names of Hugging Face's CLIPVisionModel; linear weights are found by the bias they are added to."""
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    prefix = "vision_model."
    w = {name[len(prefix) :]: torch.from_numpy(a.copy()) for name, a in arrays.items() if name.startswith(prefix)}
    by_output = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        bias = next((name for name in node.input if name.startswith(prefix) and name.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        scaled = by_output.get(next(name for name in node.input if name != bias))
        if scaled is None or scaled.op_type != "Mul":
            continue
        product = by_output[by_output[scaled.input[0]].input[0]] if scaled.input[0] in by_output else None
        if product is not None and product.op_type == "MatMulInteger":
            quantised = product.input[1]
            scale = arrays[quantised.removesuffix("_quantized") + "_scale"]
            weight = arrays[quantised].astype(np.float32) * scale
            w[bias[len(prefix) : -len("bias")] + "weight"] = torch.from_numpy(weight.T.copy())
    for i in range(BLOCKS):
        p = f"encoder.layers.{i}.self_attn."
        for field in ("weight", "bias"):
            w[f"{i}.qkv.{field}"] = torch.cat([w[f"{p}{part}_proj.{field}"] for part in "qkv"])
    return w


def pooled(w, pixels):
    xs = F.conv2d(pixels, w["embeddings.patch_embedding.weight"], stride=PATCH)
    b, _, gh, gw = xs.shape
    positions = w["embeddings.position_embedding.weight"]
    table = positions[1:].T.reshape(1, D, GRID, GRID)
    if (gh, gw) != (GRID, GRID):
        table = F.interpolate(table, size=(gh, gw), mode="bicubic", align_corners=False)
    xs = (xs + table).flatten(2).transpose(1, 2)
    class_token = (w["embeddings.class_embedding"] + positions[0]).expand(b, 1, -1)
    xs = torch.cat([class_token, xs], 1)
    xs = F.layer_norm(xs, (D,), w["pre_layrnorm.weight"], w["pre_layrnorm.bias"], EPS)
    columns = []
    for i in range(BLOCKS):
        p = f"encoder.layers.{i}."
        norm = lambda xs, name: F.layer_norm(xs, (D,), w[p + name + ".weight"], w[p + name + ".bias"], EPS)
        linear = lambda xs, name: F.linear(xs, w[p + name + ".weight"], w[p + name + ".bias"])
        qkv = F.linear(norm(xs, "layer_norm1"), w[f"{i}.qkv.weight"], w[f"{i}.qkv.bias"])
        q, k, v = qkv.view(b, -1, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        ys = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, D)
        xs = xs + linear(ys, "self_attn.out_proj")
        hidden = linear(norm(xs, "layer_norm2"), "mlp.fc1")
        xs = xs + linear(hidden * torch.sigmoid(1.702 * hidden), "mlp.fc2")
        if i in POOLED:
            tokens = F.layer_norm(xs, (D,), eps=1e-5)
            patches = tokens[:, 1:]
            columns += [tokens[:, 0], patches.mean(1), patches.std(1)]
    return torch.cat(columns, 1)


main(load, pooled, MEAN, STD)
