"""Makes vit_tiny.safetensors: a vision transformer of a few thousand weights, and what PyTorch computes with it.

    python tests/reference/vit_tiny.py tests/reference/vit_tiny.safetensors    # torch 2.13.0, safetensors 0.8

Weights are named as timm names them. The attention is written out, so that it shares no fused kernel with the code
under test. The input is not square and its grid (4 x 6) is not the position table's (5 x 5).
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

PATCH, D, BLOCKS, HEADS, MLP, GRID, EPS = 2, 8, 3, 2, 12, 5, 1e-6


def weights():
    torch.manual_seed(20)
    w = {
        "cls_token": torch.randn(1, 1, D),
        "pos_embed": torch.randn(1, 1 + GRID * GRID, D),
        "patch_embed.proj.weight": torch.randn(D, 3, PATCH, PATCH) * 0.3,
        "patch_embed.proj.bias": torch.randn(D) * 0.1,
        "norm.weight": 1 + torch.randn(D) * 0.2,
        "norm.bias": torch.randn(D) * 0.2,
    }
    for i in range(BLOCKS):
        p = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            w[p + norm + ".weight"] = 1 + torch.randn(D) * 0.2
            w[p + norm + ".bias"] = torch.randn(D) * 0.2
        for name, d_in, d_out in (("attn.qkv", D, 3 * D), ("attn.proj", D, D), ("mlp.fc1", D, MLP), ("mlp.fc2", MLP, D)):
            w[p + name + ".weight"] = torch.randn(d_out, d_in) * 0.5
            w[p + name + ".bias"] = torch.randn(d_out) * 0.1
        w[p + "ls1.gamma"] = torch.randn(D) * 0.5
        w[p + "ls2.gamma"] = torch.randn(D) * 0.5
    return w


def forward(w, pixels, layer_scale):
    """Outputs of the blocks, then the final norm of the last."""
    xs = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH)
    b, _, gh, gw = xs.shape
    table = w["pos_embed"][:, 1:].transpose(1, 2).reshape(1, D, GRID, GRID)
    table = F.interpolate(table, size=(gh, gw), mode="bicubic", align_corners=False)
    xs = (xs + table).flatten(2).transpose(1, 2)
    xs = torch.cat([(w["cls_token"] + w["pos_embed"][:, :1]).expand(b, -1, -1), xs], 1)
    outputs = []
    for i in range(BLOCKS):
        p = f"blocks.{i}."
        gamma = [w[p + f"ls{k}.gamma"] if layer_scale else 1.0 for k in (1, 2)]
        linear = lambda xs, name: xs @ w[p + name + ".weight"].T + w[p + name + ".bias"]
        norm = lambda xs, name: F.layer_norm(xs, (D,), w[p + name + ".weight"], w[p + name + ".bias"], EPS)
        qkv = linear(norm(xs, "norm1"), "attn.qkv").view(b, -1, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = torch.softmax(q @ k.transpose(-1, -2) * (D // HEADS) ** -0.5, -1) @ v
        xs = xs + gamma[0] * linear(attention.transpose(1, 2).reshape(b, -1, D), "attn.proj")
        hidden = linear(norm(xs, "norm2"), "mlp.fc1")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        xs = xs + gamma[1] * linear(hidden, "mlp.fc2")
        outputs.append(xs)
    return outputs + [F.layer_norm(xs, (D,), w["norm.weight"], w["norm.bias"], EPS)]


def main():
    w = weights()
    pixels = torch.randn(2, 3, 4 * PATCH, 6 * PATCH)
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()} | {"pixels": pixels}
    for name, layer_scale in (("scaled", True), ("plain", False)):
        # In double, so that the reference has no rounding of its own to speak of.
        double = {key: tensor.double() for key, tensor in w.items()}
        *blocks, norm = forward(double, pixels.double(), layer_scale)
        for i, xs in enumerate(blocks):
            tensors[f"{name}.block.{i}"] = xs.float().contiguous()
        tensors[f"{name}.norm"] = norm.float().contiguous()
    save_file(tensors, sys.argv[1])


main()
