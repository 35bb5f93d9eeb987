"""Makes maniqa/ and maniqa_dinov2/: what PyTorch computes with two small networks of MA-AGIQA's form.

    python tests/reference/maniqa.py      # numpy 2.4.6, torch 2.15.0, safetensors 0.8.0

The forward pass below is written from the published code's semantics (MA-AGIQA, commit 11c0cda), attention written out,
and runs in 64-bit floats over weights of 32 bits that `rule.py` makes from names and shapes. `maniqa` has the plain
transformer of the paper, and gradients and steps of Adam; `maniqa_dinov2` has DINOv2's scaled branches, a table of
positions for another grid, and ImageNet's normalisation.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import rule

HERE = Path(__file__).resolve().parent
TARGETS = [1.5, 3.25]

PLAIN = {
    "vit": {
        "img_size": 24, "patch_size": 4, "embed_dim": 12, "depth": 6, "num_heads": 3, "mlp_ratio": 2.0,
        "layer_norm_eps": 1e-6, "taps": [1, 2, 4],
    },
    "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 3, "dim_mlp": 20, "num_tab": 2, "scale": 0.7,
    "semantic_dim": 10, "fusion_dim": 14, "seed": 31,
}  # fmt: skip

DINOV2 = {
    "vit": {
        "img_size": 24, "patch_size": 4, "embed_dim": 8, "depth": 4, "num_heads": 2, "mlp_ratio": 4.0,
        "layer_norm_eps": 1e-6, "taps": [0, 2, 3], "layer_scale": True, "position_grid": 5,
    },
    "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 2, "dim_mlp": 12, "num_tab": 2, "scale": 0.8,
    "pixel_mean": [0.485, 0.456, 0.406], "pixel_std": [0.229, 0.224, 0.225],
    "semantic_dim": 6, "fusion_dim": 10, "seed": 32,
}  # fmt: skip

# With the bare rule the attention between channels is all but one-hot and most scores are cut off at 0.
OVERRIDES = {f"tablock{stage}.{i}.{part}.weight": {"mul": 0.5} for stage in (1, 2) for i in (0, 1) for part in ("c_q", "c_k")}
OVERRIDES |= {"conv1.weight": {"mul": 0.5}, "fc_weight.3.weight": {"mul": 0.25}, "fc_score.3.bias": {"add": 1.0}}


def shapes(config):
    """Names and shapes of all parameters that the forward pass reads."""
    vit, found = config["vit"], {}

    def linear(p, d_in, d_out):
        found[f"{p}.weight"], found[f"{p}.bias"] = [d_out, d_in], [d_out]

    def block(p, d, hidden):
        for norm in ("norm1", "norm2"):
            found[f"{p}.{norm}.weight"], found[f"{p}.{norm}.bias"] = [d], [d]
        linear(f"{p}.attn.qkv", d, 3 * d)
        linear(f"{p}.attn.proj", d, d)
        linear(f"{p}.mlp.fc1", d, hidden)
        linear(f"{p}.mlp.fc2", hidden, d)

    d, patch, grid = vit["embed_dim"], vit["patch_size"], vit["img_size"] // vit["patch_size"]
    n = grid * grid
    found["vit.cls_token"] = [1, 1, d]
    found["vit.pos_embed"] = [1, 1 + vit.get("position_grid", grid) ** 2, d]
    found["vit.patch_embed.proj.weight"], found["vit.patch_embed.proj.bias"] = [d, 3, patch, patch], [d]
    for i in range(max(vit["taps"]) + 1):
        block(f"vit.blocks.{i}", d, round(d * vit["mlp_ratio"]))
        if vit.get("layer_scale"):
            found[f"vit.blocks.{i}.ls1.gamma"], found[f"vit.blocks.{i}.ls2.gamma"] = [d], [d]
    width = config["embed_dim"]
    for stage, (d_in, dim) in enumerate([(d * len(vit["taps"]), width), (width, width // 2)], 1):
        for i in range(config["num_tab"]):
            for part in ("c_q", "c_k", "c_v"):
                linear(f"tablock{stage}.{i}.{part}", n, n)
        found[f"conv{stage}.weight"], found[f"conv{stage}.bias"] = [dim, d_in, 1, 1], [dim]
        for i, (depth, heads) in enumerate(zip(config["depths"], config["num_heads"])):
            p = f"swintransformer{stage}.layers.{i}"
            found[f"{p}.conv.weight"], found[f"{p}.conv.bias"] = [dim, dim, 3, 3], [dim]
            for j in range(depth):
                block(f"{p}.blocks.{j}", dim, config["dim_mlp"])
                side = 2 * config["window_size"] - 1
                found[f"{p}.blocks.{j}.attn.relative_position_bias_table"] = [side * side, heads]
    for head in ("fc_score", "fc_weight"):
        linear(f"{head}.0", width // 2, width // 2)
        linear(f"{head}.3", width // 2, 1)
    semantic, fusion = config["semantic_dim"], config["fusion_dim"]
    linear("fc4096_784_a2.0", semantic, fusion)
    linear("fc4096_784_b2.0", semantic, fusion)
    linear("fc784_784", n, fusion)
    linear("gating", 3 * fusion, 3)
    linear("output_fc", fusion, 1)
    return found


def weights(config, found_shapes, dtype):
    w = {}
    for name, shape in found_shapes.items():
        values = rule.fill(name, shape, config["seed"])
        if name in OVERRIDES:
            values = rule.overridden(values, OVERRIDES[name])
        w[name] = torch.from_numpy(values).to(dtype)
    return w


def linear(w, p, xs):
    return xs @ w[f"{p}.weight"].T + w[f"{p}.bias"]


def norm(w, p, xs, eps):
    mean = xs.mean(-1, keepdim=True)
    variance = ((xs - mean) ** 2).mean(-1, keepdim=True)
    return (xs - mean) / torch.sqrt(variance + eps) * w[f"{p}.weight"] + w[f"{p}.bias"]


def gelu(xs):
    return 0.5 * xs * (1 + torch.erf(xs / 2**0.5))


def heads_of(xs, heads):
    b, n, d = xs.shape
    return xs.view(b, n, heads, d // heads).transpose(1, 2)


def qkv_of(w, p, xs, heads):
    q, k, v = linear(w, f"{p}.attn.qkv", xs).chunk(3, -1)
    return heads_of(q, heads) * (xs.shape[-1] // heads) ** -0.5, heads_of(k, heads), heads_of(v, heads)


def joined(w, p, ys):
    b, heads, n, d = ys.shape
    return linear(w, f"{p}.attn.proj", ys.transpose(1, 2).reshape(b, n, heads * d))


def vit_forward(w, config, pixels, record):
    vit = config["vit"]
    xs = F.conv2d(pixels, w["vit.patch_embed.proj.weight"], w["vit.patch_embed.proj.bias"], stride=vit["patch_size"])
    b, d, grid, _ = xs.shape
    positions = w["vit.pos_embed"]
    trained = vit.get("position_grid", grid)
    table = positions[:, 1:]
    if trained != grid:
        table = table.transpose(1, 2).reshape(1, d, trained, trained)
        table = F.interpolate(table, size=(grid, grid), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    xs = xs.flatten(2).transpose(1, 2) + table
    xs = torch.cat([(w["vit.cls_token"] + positions[:, :1]).expand(b, -1, -1), xs], 1)
    record("vit.embed", xs)
    taps, eps = [], vit["layer_norm_eps"]
    for i in range(max(vit["taps"]) + 1):
        p = f"vit.blocks.{i}"
        scale = [w[f"{p}.ls{k}.gamma"] if vit.get("layer_scale") else 1.0 for k in (1, 2)]
        q, k, v = qkv_of(w, p, norm(w, f"{p}.norm1", xs, eps), vit["num_heads"])
        xs = xs + scale[0] * joined(w, p, torch.softmax(q @ k.transpose(2, 3), -1) @ v)
        hidden = gelu(linear(w, f"{p}.mlp.fc1", norm(w, f"{p}.norm2", xs, eps)))
        xs = xs + scale[1] * linear(w, f"{p}.mlp.fc2", hidden)
        record(f"vit.block{i}", xs)
        if i in vit["taps"]:
            taps.append(xs[:, 1:].transpose(1, 2))
    return torch.cat(taps, 1)


def channel_attention(w, p, xs):
    """Attention between channels. Its product is transposed, and then read as if it were not."""
    n = xs.shape[2]
    q, k, v = (linear(w, f"{p}.{part}", xs) for part in ("c_q", "c_k", "c_v"))
    product = torch.softmax(q @ k.transpose(1, 2) * n**-0.5, -1) @ v
    return xs + product.transpose(1, 2).reshape(xs.shape)


def window_attention(w, p, xs, grid, window, heads, shift):
    """Swin's attention, one window after the other."""
    b, n, d = xs.shape
    image = torch.roll(xs.view(b, grid, grid, d), (-shift, -shift), (1, 2))
    region = [0 if at < grid - window else 1 if at < grid - shift else 2 for at in range(grid)]
    table = w[f"{p}.attn.relative_position_bias_table"]
    out = torch.zeros_like(image)
    for top in range(0, grid, window):
        for left in range(0, grid, window):
            cells = [(y, x) for y in range(window) for x in range(window)]
            tokens = image[:, top : top + window, left : left + window].reshape(b, window * window, d)
            q, k, v = qkv_of(w, p, tokens, heads)
            rows = [[(yi - yj + window - 1) * (2 * window - 1) + xi - xj + window - 1 for yj, xj in cells] for yi, xi in cells]
            logits = q @ k.transpose(2, 3) + table[torch.tensor(rows)].permute(2, 0, 1)
            if shift:
                of = [(region[top + y], region[left + x]) for y, x in cells]
                logits = logits + torch.tensor([[0.0 if a == b else -100.0 for b in of] for a in of], dtype=xs.dtype)
            ys = joined(w, p, torch.softmax(logits, -1) @ v)
            out[:, top : top + window, left : left + window] = ys.view(b, window, window, d)
    return torch.roll(out, (shift, shift), (1, 2)).reshape(b, n, d)


def swin_stage(w, stage, xs, config, grid, record):
    window = config["window_size"]
    for i, (depth, heads) in enumerate(zip(config["depths"], config["num_heads"])):
        p = f"swintransformer{stage}.layers.{i}"
        ys = xs
        for j in range(depth):
            q = f"{p}.blocks.{j}"
            shift = window // 2 if j % 2 and grid > window else 0
            ys = ys + window_attention(w, q, norm(w, f"{q}.norm1", ys, 1e-5), grid, window, heads, shift)
            ys = ys + linear(w, f"{q}.mlp.fc2", gelu(linear(w, f"{q}.mlp.fc1", norm(w, f"{q}.norm2", ys, 1e-5))))
            record(f"swin{stage}.layer{i}.block{j}", ys)
        b, n, d = ys.shape
        ys = F.conv2d(ys.transpose(1, 2).reshape(b, d, grid, grid), w[f"{p}.conv.weight"], w[f"{p}.conv.bias"], padding=1)
        ys = torch.relu(ys).flatten(2).transpose(1, 2)
        record(f"swin{stage}.layer{i}", ys)
        xs = xs + config["scale"] * ys
    return xs


def fusion(w, gate, semantic, coherence, f_1):
    g_semantic = torch.relu(linear(w, "fc4096_784_a2.0", semantic))
    g_coherence = torch.relu(linear(w, "fc4096_784_b2.0", coherence))
    g_maniqa = linear(w, "fc784_784", f_1)
    side_by_side = torch.cat([g_semantic, g_coherence, g_maniqa], 1)
    if gate == "concat":
        alpha, fused = torch.ones(len(f_1), 3, dtype=f_1.dtype), side_by_side
    else:
        alpha = linear(w, "gating", side_by_side)
        if gate == "sigmoid":
            alpha = torch.sigmoid(alpha)
        fused = alpha[:, :1] * g_semantic + alpha[:, 1:2] * g_coherence + alpha[:, 2:] * g_maniqa
    score = linear(w, "output_fc", fused)[:, 0]
    return {"g_semantic": g_semantic, "g_coherence": g_coherence, "g_maniqa": g_maniqa}, {"alpha": alpha, "fused": fused, "score": score}


def with_concat(w, config):
    """The parameters of a head without a gate: its last layer reads all projections."""
    name, width = "output_fc.weight", 3 * config["fusion_dim"]
    values = torch.from_numpy(rule.fill(name, [1, width], config["seed"])).to(w[name].dtype)
    return w | {name: values.requires_grad_(w[name].requires_grad)}


def forward(w, config, inputs, record=lambda name, xs: None):
    """f_1 of a batch; every stage on the way to `record`."""
    grid = config["vit"]["img_size"] // config["vit"]["patch_size"]
    xs = vit_forward(w, config, inputs["input.pixels"], record)
    record("concat", xs)
    for stage in (1, 2):
        for i in range(config["num_tab"]):
            xs = channel_attention(w, f"tablock{stage}.{i}", xs)
            record(f"tab{stage}_{i}" if i + 1 < config["num_tab"] else f"tab{stage}", xs)
        b, c, n = xs.shape
        xs = F.conv2d(xs.reshape(b, c, grid, grid), w[f"conv{stage}.weight"], w[f"conv{stage}.bias"])
        record(f"conv{stage}", xs)
        xs = swin_stage(w, stage, xs.flatten(2).transpose(1, 2), config, grid, record)
        xs = xs.transpose(1, 2)
        record(f"swin{stage}", xs.reshape(b, -1, grid, grid))
    xs = xs.transpose(1, 2)
    head = lambda name: linear(w, f"{name}.3", torch.relu(linear(w, f"{name}.0", xs)))[..., 0]
    scores, token_weights = torch.relu(head("fc_score")), torch.sigmoid(head("fc_weight"))
    f_1 = scores * token_weights
    record("S", scores)
    record("W", token_weights)
    record("f1", f_1)
    record("rating", f_1.sum(1) / token_weights.sum(1))
    return f_1


# What the test compares; the stages that the network does not show under these names are left out.
KEPT = ["vit.embed", "concat", "tab1_0", "tab1", "conv1", "swin1.layer0.block0", "swin1.layer0.block1", "swin1.layer0",
        "swin1", "tab2", "conv2", "swin2", "S", "W", "f1", "rating"]  # fmt: skip
WHOLE_GRADIENTS = ["fc4096_784_a2.0.bias", "fc784_784.bias", "gating.weight", "gating.bias", "output_fc.weight",
                   "vit.cls_token", "tablock1.0.c_v.bias", "conv2.bias", "swintransformer1.layers.0.blocks.1.attn.relative_position_bias_table"]  # fmt: skip


def inputs_of(config, dtype):
    side, seed = config["vit"]["img_size"], config["seed"]
    u8 = np.stack([rule.picture(f"maniqa.{seed}.{i}", side, side) for i in range(len(TARGETS))])
    mean, std = (np.array(config.get(key, [0.5] * 3), np.float32) for key in ("pixel_mean", "pixel_std"))
    pixels = np.ascontiguousarray(((u8.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2))
    vector = lambda name: rule.fill(name, [len(TARGETS), config["semantic_dim"]], seed) * np.float32(10)
    floats = {"input.pixels": pixels, "input.semantic": vector("semantic"), "input.coherence": vector("coherence")}
    return {"input.u8": torch.from_numpy(u8)} | {name: torch.from_numpy(values).to(dtype) for name, values in floats.items()}


def run(config, dtype):
    """Inputs and every stage that is kept."""
    w, inputs = weights(config, shapes(config), dtype), inputs_of(config, dtype)
    kept = KEPT + [f"vit.block{i}" for i in config["vit"]["taps"]]
    found = dict(inputs)
    f_1 = forward(w, config, inputs, lambda name, xs: found.update({name: xs}) if name in kept else None)
    for gate in ("linear", "sigmoid", "concat"):
        of_gate = with_concat(w, config) if gate == "concat" else w
        projections, output = fusion(of_gate, gate, inputs["input.semantic"], inputs["input.coherence"], f_1)
        found |= projections | {f"{gate}.{name}": xs for name, xs in output.items()}
    return {name: xs.detach().contiguous() for name, xs in found.items()}


def train(config, gate, dtype, n_steps=3, lr=1e-4):
    """Norms of gradients and of three steps of Adam, in the order of the sorted names; some gradients whole."""
    w = {name: xs.requires_grad_() for name, xs in weights(config, shapes(config), dtype).items()}
    inputs, targets = inputs_of(config, dtype), torch.tensor(TARGETS, dtype=dtype)
    names = sorted(w)
    start = {name: w[name].detach().clone() for name in names}
    adam = torch.optim.Adam([w[name] for name in names], lr=lr, weight_decay=1e-5)
    norms = lambda of: torch.stack([of(name).detach().double().norm() for name in names])
    found, whole, losses = {}, {}, []
    for step in range(n_steps + 1):
        adam.zero_grad()
        _, output = fusion(w, gate, inputs["input.semantic"], inputs["input.coherence"], forward(w, config, inputs))
        loss = ((output["score"] - targets) ** 2).mean()
        losses.append(loss.item())
        if step in (1, 3):
            found[f"param_l2_after_{step}"] = norms(lambda name: w[name])
            found[f"change_l2_after_{step}"] = norms(lambda name: w[name] - start[name])
        loss.backward()
        if step == 0:
            found["grad_l2"] = norms(lambda name: w[name].grad)
            whole = {f"{gate}.grad.{name}": w[name].grad.clone() for name in WHOLE_GRADIENTS}
        if step < n_steps:
            adam.step()
    return found | {"losses": torch.tensor(losses, dtype=torch.float64)}, whole


def main():
    torch.set_num_threads(1)
    for folder, config in (("maniqa", PLAIN), ("maniqa_dinov2", DINOV2)):
        expected, rounded = run(config, torch.float64), run(config, torch.float32)
        worst = max((((rounded[n] - xs).abs().max() / xs.abs().max()).item(), n) for n, xs in expected.items() if n[:6] != "input.")
        print(folder, "32-bit floats differ from 64-bit ones by at most", worst)
        print("  scores above 0:", (expected["S"] > 0).double().mean().item(), "weights:", expected["W"].min().item(), expected["W"].max().item())
        tensors = {name: xs.numpy() for name, xs in expected.items()}
        tensors["input.targets"] = np.array(TARGETS)
        if folder == "maniqa":
            steps = {}
            for gate in ("linear", "sigmoid"):
                (exact, whole), (single, _) = train(config, gate, torch.float64), train(config, gate, torch.float32)
                tensors |= {name: xs.numpy() for name, xs in whole.items()}
                steps |= {f"{gate}.{name}": xs.numpy() for name, xs in exact.items()}
                has_gradient = exact["grad_l2"] > 1e-12
                off = lambda name: ((single[name] - exact[name]) / exact[name])[has_gradient].abs().max().item()
                print(" ", gate, "losses", exact["losses"].tolist(), "32-bit floats are off by", {n: off(n) for n in exact if n != "losses"})
            rule.write_tensors(HERE / folder / "train.safetensors", steps)
        rule.write_tensors(HERE / folder / "expected.safetensors", tensors)
        own = {name: override for name, override in OVERRIDES.items()}
        rule.write_json(HERE / folder / "config.json", config | {"overrides": own, "parameter_shapes": shapes(config)})


if __name__ == "__main__":
    main()
