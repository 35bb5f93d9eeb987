"""Makes raters.json: ratings of small networks, from a picture to the number, and the layouts of their checkpoints.

    python tests/reference/raters.py      # numpy 2.4.6, Pillow 13.0.0

Every network is written from its paper and the published code's semantics, in 64-bit floats over weights of 32 bits
that `rule.py` makes from names and shapes; resizes are Pillow's. An entry holds names and shapes of the weights, the
pictures with their ratings, and the layouts: how a published checkpoint calls each weight.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image

import rule

HERE = Path(__file__).resolve().parent
SEED = 17
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Weights:
    """The weights of a network, which come into being when they are asked for."""

    def __init__(self, overrides=None):
        self.shapes, self.overrides = {}, overrides or {}

    def __call__(self, name, *shape):
        self.shapes[name] = list(shape)
        return rule.overridden(rule.fill(name, shape, SEED), self.overrides.get(name, {})).astype(np.float64)


def conv(xs, weight, bias=None, stride=1, pad=None):
    """xs (c, h, w); zeros around it by half the kernel, or `pad` = (before, after)."""
    k = weight.shape[-1]
    before, after = (k // 2, k // 2) if pad is None else pad
    xs = np.pad(xs, ((0, 0), (before, after), (before, after)))
    windows = np.lib.stride_tricks.sliding_window_view(xs, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    ys = np.einsum("chwij,ocij->ohw", windows, weight, optimize=True)
    return ys if bias is None else ys + bias[:, None, None]


def norm(w, name, xs, eps=1e-5):
    c = len(xs)
    scale = w(f"{name}.weight", c) / np.sqrt(w(f"{name}.running_var", c) + eps)
    shift = w(f"{name}.bias", c) - w(f"{name}.running_mean", c) * scale
    return xs * scale[:, None, None] + shift[:, None, None]


def named_conv(w, name, xs, d_out, k, stride=1, bias=True):
    weight = w(f"{name}.weight", d_out, len(xs), k, k)
    return conv(xs, weight, w(f"{name}.bias", d_out) if bias else None, stride)


def linear(w, name, xs, d_out):
    return w(f"{name}.weight", d_out, xs.shape[-1]) @ xs + w(f"{name}.bias", d_out)


def relu6(xs):
    return np.clip(xs, 0, 6)


def relu(xs):
    return np.maximum(xs, 0)


def sigmoid(xs):
    return 1 / (1 + np.exp(-xs))


def max_pool(xs, k, stride, pad=0):
    xs = np.pad(xs, ((0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(xs, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    return windows.max((-1, -2))


def mean_pool(xs, k):
    c, h, w = xs.shape
    return xs[:, : h // k * k, : w // k * k].reshape(c, h // k, k, w // k, k).mean((2, 4))


def softmax(xs):
    xs = np.exp(xs - xs.max(-1, keepdims=True))
    return xs / xs.sum(-1, keepdims=True)


def planes(levels, mean=MEAN, std=STD):
    return ((levels.astype(np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1).astype(np.float64)


def resized(levels, width, height):
    return np.asarray(Image.fromarray(levels).resize((width, height), Image.BILINEAR))


def stem(w, p, xs, width):
    return max_pool(relu(norm(w, f"{p}bn1", named_conv(w, f"{p}conv1", xs, width, 7, 2, bias=False))), 3, 2, 1)


def layer(w, p, xs, number, width, n_blocks):
    for block in range(n_blocks):
        name, stride = f"{p}layer{number}.{block}", 2 if number > 1 and block == 0 else 1
        middle = width * 2 ** (number - 1)
        ys = relu(norm(w, f"{name}.bn1", named_conv(w, f"{name}.conv1", xs, middle, 1, bias=False)))
        ys = relu(norm(w, f"{name}.bn2", named_conv(w, f"{name}.conv2", ys, middle, 3, stride, bias=False)))
        ys = norm(w, f"{name}.bn3", named_conv(w, f"{name}.conv3", ys, 4 * middle, 1, bias=False))
        if block == 0:
            xs = norm(w, f"{name}.downsample.1", named_conv(w, f"{name}.downsample.0", xs, 4 * middle, 1, stride, bias=False))
        xs = relu(xs + ys)
    return xs


def vgg(w, p, xs, stages):
    index = 0
    for stage, (n_convs, channels) in enumerate(stages):
        if stage:
            xs, index = max_pool(xs, 2, 2), index + 1
        for _ in range(n_convs):
            xs, index = relu(named_conv(w, f"{p}{index}", xs, channels, 3)), index + 2
    return xs


def hyperiqa(w, levels):
    xs, shorter = levels, min(levels.shape[:2])
    xs = levels.astype(np.float64).transpose(2, 0, 1) / 255
    if shorter <= 224:
        scale = 225 / shorter

        def taps(side):
            at = np.maximum((np.arange(int(side * scale)) + 0.5) / scale - 0.5, 0)
            first = np.minimum(at.astype(int), side - 1)
            return first, np.minimum(first + 1, side - 1), at - first

        for axis in (1, 2):
            first, second, part = taps(xs.shape[axis])
            part = part.reshape([-1 if i == axis else 1 for i in range(3)])
            xs = xs.take(first, axis) * (1 - part) + xs.take(second, axis) * part
    xs = (xs - MEAN.astype(np.float64)[:, None, None]) / STD.astype(np.float64)[:, None, None]
    steps = [(side - 224) // 5 for side in xs.shape[1:]]
    crops = [xs[:, i * steps[0] :, j * steps[1] :][:, :224, :224] for i in range(5) for j in range(5)]
    return float(np.mean([hyperiqa_of_crop(w, crop) for crop in crops]))


def hyperiqa_of_crop(w, xs):
    taps, reduced, tapped = [], [2, 2, 2], [4, 4, 4, 16]
    xs = stem(w, "base_model.", xs, 4)
    for tap in range(4):
        xs = layer(w, "base_model.", xs, tap + 1, 4, 1)
        ys = named_conv(w, f"lda_modules.{tap}.0", xs, reduced[tap], 1, bias=False) if tap < 3 else xs
        taps.append(linear(w, f"lda_modules.{tap}.{3 if tap < 3 else 2}", mean_pool(ys, 7).reshape(-1), tapped[tap]))
    target = np.concatenate(taps)
    for i, channels in zip((0, 2, 4), (12, 10, 8)):
        xs = relu(named_conv(w, f"conv1.{i}", xs, channels, 1))
    pooled = xs.mean((1, 2))
    for i, d_out in enumerate((14, 7, 7, 7, 1)):
        if i < 4:
            made = named_conv(w, f"fc_w_modules.{i}", xs, len(target) * d_out // 49, 3).reshape(d_out, len(target))
        else:
            made = linear(w, "fc_w_modules.4.2", pooled, len(target) * d_out).reshape(d_out, len(target))
        target = made @ target + linear(w, f"fc_b_modules.{i}.2", pooled, d_out)
        target = sigmoid(target) if i < 4 else target
    return target[0]


def dbcnn(w, levels):
    xs = planes(levels)
    content = vgg(w, "features1.", xs, [(2, 4), (2, 4), (3, 6), (3, 6), (3, 8)])
    for i, channels in enumerate((3, 3, 4, 4, 4, 4, 6, 6, 6)):
        xs = named_conv(w, f"features2.{3 * i}", xs, channels, 3, 2 if i in (1, 3, 5, 8) else 1)
        xs = relu(norm(w, f"features2.{3 * i + 1}", xs))
    for axis in (1, 2):
        n_in, n_out = xs.shape[axis], content.shape[axis]
        at = np.arange(n_out) * ((n_in - 1) / (n_out - 1) if n_out > 1 else 0.0)
        first = np.minimum(at.astype(int), n_in - 1)
        part = (at - first).reshape([-1 if i == axis else 1 for i in range(3)])
        xs = xs.take(first, axis) * (1 - part) + xs.take(np.minimum(first + 1, n_in - 1), axis) * part
    products = np.einsum("chw,dhw->cd", content, xs) / content[0].size
    roots = np.sqrt(products.reshape(-1) + 1e-8)
    return float(linear(w, "fc", roots / max(np.linalg.norm(roots), 1e-12), 1)[0])


def five_crops(levels):
    h, width = levels.shape[:2]
    size = (384, int(384 * h / width)) if width <= h else (int(384 * width / h), 384)
    levels = resized(levels, *size)
    down, right = size[1] - 320, size[0] - 320
    for top, left in [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]:
        yield levels[top : top + 320, left : left + 320]


def stairiqa(w, levels, head="quality4"):
    scores = []
    for crop in five_crops(levels):
        xs = stem(w, "", planes(crop), 4)
        stairs = []
        for level in range(1, 5):
            inputs = [stair + xs for stair in stairs] + [xs]
            stairs = [stair_block(w, f"hyper{level}_{j}", ys, 16 * 2 ** (level - 1), 1 if level == 1 else 2) for j, ys in enumerate(inputs, 1)]
            xs = layer(w, "", xs, level, 4, 1)
        pooled = (xs + sum(stairs)).mean((1, 2))
        scores.append(linear(w, f"{head}.1", linear(w, f"{head}.0", pooled, 6), 1)[0])
    return float(np.mean(scores))


def stair_block(w, name, xs, d_out, stride):
    xs = named_conv(w, f"{name}.0", xs, len(xs) // 4, 1, bias=False)
    xs = named_conv(w, f"{name}.1", xs, len(xs), 3, stride, bias=False)
    return named_conv(w, f"{name}.2", xs, d_out, 1, bias=False)


def efficientnet(w, levels, widths=(2, 3, 4, 5, 6, 8, 10)):
    def same(name, xs, d_out, k, stride=1, groups=1):
        weight = w(f"{name}.weight", d_out, len(xs) // groups, k, k)
        (h, width), total = xs.shape[1:], 0
        assert h == width
        total = max((-(-h // stride) - 1) * stride + k - h, 0)
        pad = (total // 2, total - total // 2)
        if groups == 1:
            return conv(xs, weight, stride=stride, pad=pad)
        return np.concatenate([conv(xs[i : i + 1], weight[i : i + 1], stride=stride, pad=pad) for i in range(groups)])

    scores = []
    for crop in five_crops(levels):
        xs = ((crop.astype(np.float64) - 127) / 128).transpose(2, 0, 1)
        xs = relu6(norm(w, "_bn0", same("_conv_stem", xs, 4, 3, 2), 1e-3))
        number = 0
        for (n, k, stride, factor), d_out in zip(EFFICIENTNET, widths):
            for block in range(n):
                name, ys = f"_blocks.{number}", xs
                if factor > 1:
                    ys = relu6(norm(w, f"{name}._bn0", same(f"{name}._expand_conv", ys, factor * len(ys), 1), 1e-3))
                ys = same(f"{name}._depthwise_conv", ys, len(ys), k, stride if block == 0 else 1, len(ys))
                ys = same(f"{name}._project_conv", relu6(norm(w, f"{name}._bn1", ys, 1e-3)), d_out, 1)
                ys = norm(w, f"{name}._bn2", ys, 1e-3)
                xs, number = ys + xs if block > 0 or (stride == 1 and len(xs) == d_out) else ys, number + 1
        xs = relu6(norm(w, "_bn1", same("_conv_head", xs, 12, 1), 1e-3))
        scores.append(linear(w, "_fc", xs.mean((1, 2)), 1)[0])
    return float(np.mean(scores))


def saan(w, levels):
    xs = planes(resized(levels, 224, 224))
    generic = stem(w, "GenAes.model.", xs, 4)
    for number in (1, 2, 3):
        generic = layer(w, "GenAes.model.", generic, number, 4, 1)
    content = stem(w, "StyAes.model.", xs, 4)
    for number in (1, 2):
        content = layer(w, "StyAes.model.", content, number, 4, 1)
    style = vgg(w, "StyAes.vgg.model.", xs, [(2, 4), (2, 8), (4, 16), (1, 32)])

    def moments(xs):
        return xs.mean((1, 2), keepdims=True), xs.std((1, 2), ddof=1, keepdims=True) + 1e-6

    (mean_c, std_c), (mean_s, std_s) = moments(content), moments(style)
    both = np.concatenate([max_pool(relu((content - mean_c) / std_c * std_s + mean_s), 3, 2, 1), generic])
    d, h, width = both.shape
    queries = named_conv(w, "NLB.theta", both, d // 2, 1).reshape(d // 2, -1).T
    keys = max_pool(named_conv(w, "NLB.phi.0", both, d // 2, 1), 2, 2).reshape(d // 2, -1)
    values = max_pool(named_conv(w, "NLB.g.0", both, d // 2, 1), 2, 2).reshape(d // 2, -1).T
    seen = (softmax(queries @ keys) @ values).T.reshape(d // 2, h, width)
    both = both + norm(w, "NLB.W.1", named_conv(w, "NLB.W.0", seen, d, 1))
    flat = norm(w, "bn", mean_pool(both, h // 2)).reshape(-1)
    return float(sigmoid(linear(w, "predictor.3", relu(linear(w, "predictor.0", flat, 10)), 1))[0])


def cubic(n_in, n_out):
    """Keys' cubic with a = -0.75 as a matrix, without antialias; the edge repeats."""
    a, matrix = -0.75, np.zeros((n_out, n_in))
    for i in range(n_out):
        position = (i + 0.5) * n_in / n_out - 0.5
        for at in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            x = abs(at - position)
            inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
            outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[i, min(max(at, 0), n_in - 1)] += inner if x < 1 else outer if x < 2 else 0
    return matrix


def gelu(xs):
    return xs * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(xs)


def layer_norm(w, name, xs, eps=1e-6):
    mean, variance = xs.mean(-1, keepdims=True), xs.var(-1, keepdims=True)
    return (xs - mean) / np.sqrt(variance + eps) * w(f"{name}.weight", xs.shape[-1]) + w(f"{name}.bias", xs.shape[-1])


def linears(w, name, xs, d_out):
    return xs @ w(f"{name}.weight", d_out, xs.shape[-1]).T + w(f"{name}.bias", d_out)


def musiq(w, levels, patch=8, root=32, out=64, dim=12, mlp=16, n_blocks=2, heads=6):
    xs = (levels.astype(np.float64) / 255 - 0.5) * 2
    height, width = levels.shape[:2]
    tokens, places = [], []
    positions = w("transformer_encoder.posembed_input.position_emb", 1, 100, dim)[0]
    scales = w("transformer_encoder.scaleembed_input.scale_emb", 3, dim)
    for scale, longer in enumerate((7 * patch, 12 * patch, None)):
        ys = xs
        if longer:
            h, wd = (round(side * (longer / max(height, width))) for side in (height, width))
            ys = np.einsum("ih,hwc,jw->ijc", cubic(height, h), xs, cubic(width, wd))
        rows, columns = (-(-side // patch) for side in ys.shape[:2])
        room = [n * patch - side for n, side in zip((rows, columns), ys.shape)]
        ys = np.pad(ys, [(r // 2, r - r // 2) for r in room] + [(0, 0)])
        for i in range(rows):
            for j in range(columns):
                piece = ys[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].transpose(2, 0, 1)
                tokens.append(musiq_token(w, piece, root, out, dim))
                places.append(positions[i * 10 // rows * 10 + j * 10 // columns] + scales[scale])
    xs = np.stack([w("transformer_encoder.cls", 1, 1, dim)[0, 0], *(np.array(tokens) + places)])
    for block in range(n_blocks):
        name = f"transformer_encoder.transformer.encoderblock_{block}"
        ys = layer_norm(w, f"{name}.norm1", xs)
        q, k, v = (linears(w, f"{name}.attention.{part}", ys, dim).reshape(len(ys), heads, -1) for part in ("query", "key", "value"))
        attention = softmax(np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(dim // heads))
        xs = xs + linears(w, f"{name}.attention.out", np.einsum("hnm,mhd->nhd", attention, v).reshape(len(ys), dim), dim)
        hidden = gelu(linears(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", xs), mlp))
        xs = xs + linears(w, f"{name}.mlp.fc2", hidden, dim)
    return float(linear(w, "head", layer_norm(w, "transformer_encoder.encoder_norm", xs[0]), 1)[0])


def musiq_token(w, xs, root, out, dim):
    def standard(name, xs, d_out, k, stride=1):
        weight = w(f"{name}.weight", d_out, len(xs), k, k)
        weight = weight - weight.mean((1, 2, 3), keepdims=True)
        weight = weight / (weight.std((1, 2, 3), ddof=1, keepdims=True) + 1e-5)
        return conv(xs, weight, stride=stride, pad=((k - stride) // 2, k - stride - (k - stride) // 2))

    def group_norm(name, xs, eps):
        groups = xs.reshape(32, -1)
        groups = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + eps)
        return groups.reshape(xs.shape) * w(f"{name}.weight", len(xs))[:, None, None] + w(f"{name}.bias", len(xs))[:, None, None]

    xs = relu(group_norm("gn_root", standard("conv_root", xs, root, 7, 2), 1e-6))
    xs = max_pool(np.pad(xs, ((0, 0), (0, 1), (0, 1))), 3, 2)
    ys = relu(group_norm("block1.gn1", standard("block1.conv1", xs, root, 1), 1e-4))
    ys = relu(group_norm("block1.gn2", standard("block1.conv2", ys, root, 3), 1e-4))
    ys = group_norm("block1.gn3", standard("block1.conv3", ys, out, 1), 1e-4)
    xs = relu(ys + group_norm("block1.gn_proj", standard("block1.conv_proj", xs, out, 1), 1e-4))
    return linear(w, "embedding", xs.transpose(1, 2, 0).reshape(-1), dim)


OFFICIAL = [[886, 1125, 269], [2103, 1125, 269]]  # "Good photo.", "Bad photo."


def clipiqa(w, levels, learned=None, width=4, features=24, d=64):
    xs = planes(levels, np.float32([0.48145466, 0.4578275, 0.40821073]), np.float32([0.26862954, 0.26130258, 0.27577711]))
    for i, channels, stride in ((1, width // 2, 2), (2, width // 2, 1), (3, width, 1)):
        xs = relu(norm(w, f"visual.bn{i}", named_conv(w, f"visual.conv{i}", xs, channels, 3, stride, bias=False)))
    xs = mean_pool(xs, 2)
    for number in (1, 2, 3, 4):
        name, middle, halving = f"visual.layer{number}.0", width * 2 ** (number - 1), 2 if number > 1 else 1
        ys = relu(norm(w, f"{name}.bn1", named_conv(w, f"{name}.conv1", xs, middle, 1, bias=False)))
        ys = mean_pool(relu(norm(w, f"{name}.bn2", named_conv(w, f"{name}.conv2", ys, middle, 3, bias=False))), halving)
        ys = norm(w, f"{name}.bn3", named_conv(w, f"{name}.conv3", ys, 4 * middle, 1, bias=False))
        shortcut = named_conv(w, f"{name}.downsample.0", mean_pool(xs, halving), 4 * middle, 1, bias=False)
        xs = relu(ys + norm(w, f"{name}.downsample.1", shortcut))
    tokens, dim = xs.reshape(len(xs), -1).T, len(xs)
    tokens = np.concatenate([tokens.mean(0, keepdims=True), tokens])
    table = w("visual.attnpool.positional_embedding", 5, dim)
    if learned == 3:
        tokens = tokens + cubic(5, len(tokens)) @ table
    q, k, v = (linears(w, f"visual.attnpool.{part}_proj", tokens, dim).reshape(-1, dim // 64, 64) for part in "qkv")
    attention = softmax(np.einsum("hd,mhd->hm", q[0], k) / 8)
    image = linear(w, "visual.attnpool.c_proj", np.einsum("hm,mhd->hd", attention, v).reshape(-1), features)

    words = w("token_embedding.weight", 49408, d)
    positions = w("positional_embedding", 77, d)
    if learned:
        vectors = w("prompt_learner.ctx", *([16, d] if learned == 2 else [2, 16, d]))
        halves = [(v[:8], v[8:]) for v in (vectors if learned == 3 else (vectors, vectors))]
        middles = [np.concatenate([a, words[ids], b]) for (a, b), ids in zip(halves, ([886, 1125, 852], [2103, 1125, 852]))]
    else:
        middles = [words[ids] for ids in OFFICIAL]
    texts = [clip_text(w, np.concatenate([words[[49406]], middle, words[[49407]]]), positions, features) for middle in middles]
    unit = [xs / np.linalg.norm(xs) for xs in (image, *texts)]
    return float(softmax(np.exp(w("logit_scale")) * np.array([unit[0] @ unit[1], unit[0] @ unit[2]]))[0])


def clip_text(w, xs, positions, features, n_blocks=2):
    n, d = xs.shape
    xs, mask = xs + positions[:n], np.triu(np.full((n, n), -np.inf), 1)
    for block in range(n_blocks):
        name = f"transformer.resblocks.{block}"
        ys = layer_norm(w, f"{name}.ln_1", xs, 1e-5)
        qkv = ys @ w(f"{name}.attn.in_proj_weight", 3 * d, d).T + w(f"{name}.attn.in_proj_bias", 3 * d)
        q, k, v = (part.reshape(n, -1, 64) for part in np.split(qkv, 3, 1))
        attention = softmax(np.einsum("nhd,mhd->hnm", q, k) / 8 + mask)
        xs = xs + linears(w, f"{name}.attn.out_proj", np.einsum("hnm,mhd->nhd", attention, v).reshape(n, d), d)
        hidden = linears(w, f"{name}.mlp.c_fc", layer_norm(w, f"{name}.ln_2", xs, 1e-5), 4 * d)
        xs = xs + linears(w, f"{name}.mlp.c_proj", hidden * sigmoid(1.702 * hidden), d)
    return layer_norm(w, "ln_final", xs[-1], 1e-5) @ w("text_projection", d, features)


# The authors' names of HyperIQA, by those of pyiqa.
HYPERIQA = {"base_model.": "res."}
HYPERIQA |= {f"lda_modules.{i}.0.": f"res.lda{i + 1}_pool.0." for i in range(3)}
HYPERIQA |= {f"lda_modules.{i}.{3 if i < 3 else 2}.": f"res.lda{i + 1}_fc." for i in range(4)}
HYPERIQA |= {f"fc_w_modules.{i}.": f"fc{i + 1}w_conv." for i in range(4)} | {"fc_w_modules.4.2.": "fc5w_fc."}
HYPERIQA |= {f"fc_b_modules.{i}.2.": f"fc{i + 1}b_fc." for i in range(5)}

# The names of StairIQA in its training code, by the published ones.
STAIRIQA = {"conv1.": "feature_extraction_stem.0.", "bn1.": "feature_extraction_stem.1.", "quality4.": "quality."}
STAIRIQA |= {f"layer{i}.": f"feature_extraction{i}.{i + 3}." for i in (1, 2, 3, 4)}

# Blocks, side of filters, stride and factor of widening of the stages of EfficientNet-Lite0.
EFFICIENTNET = [(1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6)]

# Logits of the published size, so that prompts differ.
CLIP = {"logit_scale": {"add": 4.6}}

# Per network: its function, overrides of the rule, the pictures' widths and heights, and its layouts: a prefix and
# renamed beginnings.
NETWORKS = {
    "hyperiqa": (hyperiqa, {}, [(200, 152), (301, 243)], [("params.", {}), ("", HYPERIQA), ("module.", HYPERIQA)]),
    "dbcnn": (dbcnn, {}, [(64, 48), (61, 83)], [("params.", {}), ("module.", {})]),
    "stairiqa": (stairiqa, {}, [(400, 390), (90, 100)], [("module.", {}), ("", STAIRIQA)]),
    "clipiqa": (clipiqa, CLIP, [(96, 64), (75, 45)], [("", {})]),
    "clipiqa-plus": (lambda w, levels: clipiqa(w, levels, 3), CLIP, [(75, 45)], [("", {"prompt_learner.": "params.prompt_learner."})]),
    "musiq": (musiq, {}, [(61, 45)], [("", {}), ("module.", {})]),
    "baid": (saan, {}, [(300, 200)], [("", {})]),
    "efficientnet-lite0": (efficientnet, {"_fc.weight": {"mul": 20}}, [(400, 390), (90, 100)], [("", {}), ("module.", {})]),
}


def renamed(name, prefix, pairs):
    fitting = [pair for pair in pairs.items() if name.startswith(pair[0])]
    return prefix + (fitting[0][1] + name[len(fitting[0][0]) :] if fitting else name)


def main():
    entries = {}
    for name, (network, overrides, sizes, layouts) in NETWORKS.items():
        w = Weights(overrides)
        pictures = []
        for i, (width, height) in enumerate(sizes):
            rating = network(w, rule.picture(f"{name} {i}", width, height))
            pictures.append({"name": f"{name} {i}", "width": width, "height": height, "rating": rating})
        stored = [{own: renamed(own, prefix, pairs) for own in w.shapes} for prefix, pairs in layouts]
        entries[name] = {"seed": SEED, "shapes": w.shapes, "overrides": overrides, "pictures": pictures, "layouts": stored}
        print(name, [picture["rating"] for picture in pictures])
    rule.write_json(HERE / "raters.json", entries)


if __name__ == "__main__":
    main()
