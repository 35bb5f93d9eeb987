"""Makes mplug_owl2/: a tokenizer of 420 pieces, a small network of mPLUG-Owl2's form, and what PyTorch computes with it.

    python tests/reference/preprocess.py && python tests/reference/mplug_owl2.py
    # numpy 2.4.6, sentencepiece 0.2.3, tokenizers 0.23.3, torch 2.15.0

The forward pass below is written from the published classes' semantics (mPLUG-Owl2, `visual_encoder.py` and
`modeling_llama2.py`), one image and one prompt at a time, all positions in one sequence, and runs in 64-bit floats. The
weights follow from names and shapes by `rule.py`; `pytorch_model-*.bin` hold the same in 16 bits, as `torch.save` writes
them, and `embed_bin` is what the network computes with those.

The tokenizer is sentencepiece's own, trained on the text below. `tokenizer.json` says the same in the form of Hugging Face's
tokenizers; that both libraries give the same ids is checked here.
"""

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
import torch

import rule
from preprocess import MEAN, SIDE, for_mplug_owl2

HERE = Path(__file__).resolve().parent
OUT = HERE / "mplug_owl2"
SEED = 34
STD = (0.26862954, 0.26130258, 0.27577711)
IMAGES = ["wide.png", "alpha.png", "grey.png", "halved_colour.jpg"]

PROMPTS = {
    "semantic_content": "Evaluate the input image to determine if its quality is compromised due to a lack of meaningful semantic content.",
    "coherence": "Evaluate if the image quality is compromised due to violations of coherence.",
}

TEXT = """
USER: Evaluate the input image to determine if its quality is compromised due to a lack of meaningful semantic content.
USER: Evaluate if the image quality is compromised due to violations of coherence.
ASSISTANT: The picture shows a red house beside a quiet lake, and the house has no door where a door should be.
A dog with five legs runs over the meadow. Its shadow falls to the left, the shadow of the tree falls to the right.
Sharp edges, soft light, colours that do not clash: what is pleasant to look at need not make sense.
The letters on the sign are no letters of any alphabet, and the hands of the clock are of equal length.
Is the hand whole? Does the water lie level? Do both eyes look at the same point? Count the fingers: 1, 2, 3, 4, 5, 6.
naïve café, größer, déjà vu
""".strip().splitlines()

CASES = [
    "", " ", "  ", "\n", "a\n\nb", "The house", " The house", "  The   house  ", "\tred\thouse", "USER: Is it sharp?\n", " ASSISTANT:",
    "ASSISTANT:", "Evaluate", "evaluate", "don't", "3.14159 -42 1e-6", "naïve café größer Ångström", "Привет, мир!", "日本語の文",
    "🙂 smile 👩‍🚀", "▁underline ▁▁two", "ﬁ ½ é é", "<s> the </s> end <unk> <0x0A>", "x = {'a': [1, 2]}\r\n",
]  # fmt: skip

CONFIG = {
    "model_type": "mplug_owl2", "vocab_size": 420, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 3, "num_key_value_heads": 3, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "rope_scaling": None, "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "visual_config": {
        "visual_model": {
            "hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3,
            "image_size": SIDE, "patch_size": 8, "layer_norm_eps": 1e-6, "hidden_act": "quick_gelu", "use_cls_token": True,
            "use_post_layernorm": True,
        },
        "visual_abstractor": {
            "hidden_size": 20, "encoder_hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_learnable_queries": 5, "grid_size": 4, "layer_norm_eps": 1e-6,
            "use_cls_token": True, "add_v2t_pos_emb": False,
        },
    },
}  # fmt: skip


# ---- tokenizer


def train_tokenizer():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, model_type="bpe", vocab_size=CONFIG["vocab_size"],
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=True, split_digits=True, pad_id=-1, unk_id=0, bos_id=1, eos_id=2, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def as_json(pieces):
    """The same tokenizer for Hugging Face's library: every split of a piece into two, in the order of the pieces."""
    vocab = {piece: i for i, piece in enumerate(pieces)}
    normal = [piece for piece in pieces if not (piece.startswith("<") and piece.endswith(">"))]
    known = set(normal)
    merges = [[p[:i], p[i:]] for p in normal for i in range(1, len(p)) if p[:i] in known and p[i:] in known]
    special = lambda i: {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space = "\u2581"
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(i) for i in (0, 1, 2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": space},
            {"type": "Replace", "pattern": {"String": " "}, "content": space},
        ]},
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges,
        },
    }  # fmt: skip


class Tokenizer:
    """Special tokens are cut out of the text first; every piece between them is encoded by itself."""

    def __init__(self, model, text_of_json):
        self.sentencepiece = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokenizers = tokenizers.Tokenizer.from_str(text_of_json)

    def encode(self, text):
        ids, special = [1], {"<unk>": 0, "<s>": 1, "</s>": 2}
        while text:
            at, token = min(((text.find(t), t) for t in special if t in text), default=(len(text), None))
            ids += self.sentencepiece.encode(text[:at])
            if token:
                ids.append(special[token])
            text = text[at + len(token or "") :]
        return ids

    def prompt(self, question):
        before, after = f"USER: {question}\n<|image|> ASSISTANT:".split("<|image|>")
        return self.encode(before) + [-200] + self.encode(after)[1:]


# ---- network


def shapes(config):
    vision, abstractor = config["visual_config"]["visual_model"], config["visual_config"]["visual_abstractor"]
    d, m = config["hidden_size"], config["intermediate_size"]
    found = {"model.embed_tokens.weight": [config["vocab_size"], d], "model.norm.weight": [d]}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}"
        for branch in (0, 1):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"{p}.{norm}.multiway.{branch}.weight"] = [d]
            for part in ("k_proj", "v_proj"):
                found[f"{p}.self_attn.{part}.multiway.{branch}.weight"] = [d, d]
        found |= {f"{p}.self_attn.{part}.weight": [d, d] for part in ("q_proj", "o_proj")}
        found |= {f"{p}.mlp.{part}.weight": [m, d] for part in ("gate_proj", "up_proj")}
        found[f"{p}.mlp.down_proj.weight"] = [d, m]

    def pair(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = list(shape), [shape[0]]

    d, m, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    p, grid = "model.vision_model", vision["image_size"] // patch
    found[f"{p}.embeddings.cls_token"] = [1, 1, d]
    found[f"{p}.embeddings.patch_embed.weight"] = [d, 3, patch, patch]
    found[f"{p}.embeddings.position_embedding"] = [1, 1 + grid * grid, d]
    pair(f"{p}.embeddings.pre_layernorm", d)
    for i in range(vision["num_hidden_layers"]):
        q = f"{p}.encoder.layers.{i}"
        pair(f"{q}.input_layernorm", d)
        pair(f"{q}.post_attention_layernorm", d)
        pair(f"{q}.self_attn.query_key_value", 3 * d, d)
        pair(f"{q}.self_attn.dense", d, d)
        pair(f"{q}.mlp.fc1", m, d)
        pair(f"{q}.mlp.fc2", d, m)
    pair(f"{p}.post_layernorm", d)

    d, m, p = abstractor["hidden_size"], abstractor["intermediate_size"], "model.visual_abstractor"
    found[f"{p}.query_embeds"] = [1, abstractor["num_learnable_queries"], d]
    for i in range(abstractor["num_hidden_layers"]):
        q = f"{p}.encoder.layers.{i}.crossattention"
        for part in ("query", "key", "value"):
            pair(f"{q}.attention.{part}", d, d)
        for norm in ("norm1", "normk", "output.norm2"):
            pair(f"{q}.{norm}", d)
        pair(f"{q}.output.out_proj", d, d)
        pair(f"{q}.output.mlp.w1", m, d)
        pair(f"{q}.output.mlp.w2", d, m)
        pair(f"{q}.output.mlp.w3", m, d)
        pair(f"{q}.output.mlp.ffn_ln", m)
    pair(f"{p}.visual_fc", config["hidden_size"], d)
    found[f"{p}.vit_eos"] = [1, 1, config["hidden_size"]]
    return found


class Network:
    """The published network, one image and one prompt at a time."""

    def __init__(self, config, weights):
        self.config, self.w = config, weights
        self.vision, self.abstractor = config["visual_config"]["visual_model"], config["visual_config"]["visual_abstractor"]

    def linear(self, p, xs):
        ys = xs @ self.w[f"{p}.weight"].T
        return ys + self.w[f"{p}.bias"] if f"{p}.bias" in self.w else ys

    def layer_norm(self, p, xs, eps):
        centred = xs - xs.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * self.w[f"{p}.weight"] + self.w[f"{p}.bias"]

    @staticmethod
    def attention(q, k, v, mask=None):
        """(heads, n, d / heads) each; joins the heads."""
        logits = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(mask, float("-inf"))
        ys = torch.softmax(logits, -1) @ v
        return ys.transpose(0, 1).reshape(ys.shape[1], -1)

    def see(self, pixels):
        """Tokens of the vision tower: the class token, then the patches row by row."""
        vision, w, p = self.vision, self.w, "model.vision_model"
        patch, grid, eps = vision["patch_size"], vision["image_size"] // vision["patch_size"], vision["layer_norm_eps"]
        kernel = w[f"{p}.embeddings.patch_embed.weight"].flatten(1)
        cut = lambda y, x: pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].reshape(-1)
        patches = torch.stack([kernel @ cut(y, x) for y in range(grid) for x in range(grid)])
        xs = torch.cat([w[f"{p}.embeddings.cls_token"][0], patches]) + w[f"{p}.embeddings.position_embedding"][0]
        xs = self.layer_norm(f"{p}.embeddings.pre_layernorm", xs, eps)
        heads, d = vision["num_attention_heads"], vision["hidden_size"]
        for i in range(vision["num_hidden_layers"]):
            q = f"{p}.encoder.layers.{i}"
            # Rows of the weight: head by head its query, its key, its value.
            qkv = self.linear(f"{q}.self_attn.query_key_value", self.layer_norm(f"{q}.input_layernorm", xs, eps))
            qkv = qkv.view(len(xs), heads, 3, d // heads).permute(2, 1, 0, 3)
            xs = xs + self.linear(f"{q}.self_attn.dense", self.attention(*qkv))
            hidden = self.linear(f"{q}.mlp.fc1", self.layer_norm(f"{q}.post_attention_layernorm", xs, eps))
            xs = xs + self.linear(f"{q}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
        return self.layer_norm(f"{p}.post_layernorm", xs, eps)

    @staticmethod
    def sines(position, d):
        angles = [position * 10000 ** (-i / (d / 2)) for i in range(d // 2)]
        return [np.sin(a) for a in angles] + [np.cos(a) for a in angles]

    def abstract(self, seen):
        """Visual tokens of the language model: one per query, and the end token."""
        sizes, p, d = self.abstractor, "model.visual_abstractor", self.abstractor["hidden_size"]
        grid, heads = sizes["grid_size"], sizes["num_attention_heads"]
        of_queries = [self.sines(i, d) for i in range(sizes["num_learnable_queries"])]
        of_patches = [self.sines(x, d // 2) + self.sines(y, d // 2) for y in range(grid) for x in range(grid)]
        table = lambda rows: torch.tensor(np.array(rows), dtype=seen.dtype)
        queries_at, keys_at = table(of_queries), table(of_queries + [[0.0] * d] + of_patches)
        split = lambda xs: xs.view(len(xs), heads, d // heads).transpose(0, 1)
        xs = self.w[f"{p}.query_embeds"][0]
        for i in range(sizes["num_hidden_layers"]):
            q = f"{p}.encoder.layers.{i}.crossattention"
            normed = self.layer_norm(f"{q}.norm1", xs, 1e-5)
            values = torch.cat([normed, self.layer_norm(f"{q}.normk", seen, 1e-5)])
            asked = split(self.linear(f"{q}.attention.query", normed + queries_at))
            keys = split(self.linear(f"{q}.attention.key", values + keys_at))
            answers = self.attention(asked, keys, split(self.linear(f"{q}.attention.value", values)))
            xs = normed + self.linear(f"{q}.output.out_proj", answers)
            hidden = self.layer_norm(f"{q}.output.norm2", xs, 1e-5)
            gate = self.linear(f"{q}.output.mlp.w1", hidden)
            hidden = gate * torch.sigmoid(gate) * self.linear(f"{q}.output.mlp.w3", hidden)
            xs = xs + self.linear(f"{q}.output.mlp.w2", self.layer_norm(f"{q}.output.mlp.ffn_ln", hidden, sizes["layer_norm_eps"]))
        return torch.cat([self.linear(f"{p}.visual_fc", xs), self.w[f"{p}.vit_eos"][0]])

    def decode(self, ids, visual):
        """Hidden states of a prompt, in which -200 stands for the visual tokens, after the last norm."""
        config, w = self.config, self.w
        at = ids.index(-200)
        embedded = w["model.embed_tokens.weight"]
        xs = torch.cat([embedded[ids[:at]], visual, embedded[ids[at + 1 :]]])
        n, d, heads = len(xs), config["hidden_size"], config["num_attention_heads"]
        branch = [int(at <= i < at + len(visual)) for i in range(n)]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        half = d // heads // 2
        frequencies = torch.tensor([config["rope_theta"] ** (-i / half) for i in range(half)], dtype=xs.dtype)
        angles = torch.arange(n, dtype=xs.dtype)[:, None] * frequencies

        def rms(name, xs):
            return xs / torch.sqrt((xs**2).mean(-1, keepdim=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]

        def multiway(f, name, xs):
            """Row by row, so that no row can take another's branch."""
            return torch.stack([f(f"{name}.multiway.{b}", row) for b, row in zip(branch, xs)])

        def rotated(xs):
            a, b = xs[..., :half], xs[..., half:]
            return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

        split = lambda xs: xs.view(n, heads, d // heads).transpose(0, 1)
        for i in range(config["num_hidden_layers"]):
            p = f"model.layers.{i}"
            normed = multiway(rms, f"{p}.input_layernorm", xs)
            q = split(self.linear(f"{p}.self_attn.q_proj", normed))
            k, v = (split(multiway(self.linear, f"{p}.self_attn.{part}", normed)) for part in ("k_proj", "v_proj"))
            xs = xs + self.linear(f"{p}.self_attn.o_proj", self.attention(rotated(q), rotated(k), v, mask))
            normed = multiway(rms, f"{p}.post_attention_layernorm", xs)
            gate = self.linear(f"{p}.mlp.gate_proj", normed)
            xs = xs + self.linear(f"{p}.mlp.down_proj", gate * torch.sigmoid(gate) * self.linear(f"{p}.mlp.up_proj", normed))
        return rms("model.norm", xs)


def stages(weights, dtype, prompts):
    network = Network(CONFIG, {name: xs.to(dtype) for name, xs in weights.items()})
    found = {}
    for name in IMAGES:
        u8 = for_mplug_owl2(HERE / "images" / name)
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        pixels = torch.from_numpy(((u8.astype(np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1).copy())
        found[f"pixel_values.{name}"] = pixels
        seen = network.see(pixels.to(dtype))
        visual = network.abstract(seen)
        found |= {f"vision.{name}.first4": seen[:4], f"debug.vision_all.{name}": seen, f"abstractor.{name}": visual}
        for prompt, ids in prompts.items():
            hidden = network.decode(ids, visual)
            found |= {f"hidden.{name}.{prompt}": hidden, f"embed.{name}.{prompt}": hidden.mean(0)}
    return found


def write_shards(weights):
    """Two shards and their index, tensors in the order of the conversion script: layers first, the rest last."""
    halves = {name: xs.half() for name, xs in weights.items()}
    first = {name: xs for name, xs in halves.items() if name.startswith("model.layers.")}
    head_dim = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
    for i in range(CONFIG["num_hidden_layers"]):
        exponents = torch.arange(0, head_dim, 2).float() / head_dim
        first[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = 1 / CONFIG["rope_theta"] ** exponents
    shards = [first, {name: xs for name, xs in halves.items() if name not in first}]
    weight_map, total = {}, 0
    for i, shard in enumerate(shards, 1):
        name = f"pytorch_model-{i}-of-{len(shards)}.bin"
        torch.save(shard, OUT / name)
        (OUT / name).chmod(0o644)
        weight_map |= {tensor: name for tensor in shard}
        total += sum(xs.numel() * xs.element_size() for xs in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    rule.write_json(OUT / "pytorch_model.bin.index.json", index)
    return {name: xs.float() for name, xs in halves.items()}


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    model = train_tokenizer()
    (OUT / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    text = json.dumps(as_json([processor.id_to_piece(i) for i in range(len(processor))]), ensure_ascii=False, separators=(",", ":"))
    (OUT / "tokenizer.json").write_text(text + "\n")
    tokenizer = Tokenizer(model, text)
    for case in CASES + TEXT:
        # Hugging Face's library puts no space after a special token; the published one did.
        if not any(special in case for special in ("<unk>", "<s>", "</s>")):
            assert tokenizer.tokenizers.encode(case, add_special_tokens=False).ids == tokenizer.encode(case)[1:], case
    prompts = {name: tokenizer.prompt(question) for name, question in PROMPTS.items()}
    n_visual = CONFIG["visual_config"]["visual_abstractor"]["num_learnable_queries"] + 1
    reference = {
        "prompts": [
            {
                "name": name,
                "prompt": f"USER: {PROMPTS[name]}\n<|image|> ASSISTANT:",
                "input_ids": ids,
                "sequence_length": len(ids) - 1 + n_visual,
            }
            for name, ids in prompts.items()
        ],
        "tokenizer_cases": [{"text": case, "input_ids": tokenizer.encode(case)} for case in CASES],
    }
    rule.write_json(OUT / "prompts.json", reference)
    (OUT / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    preprocessor = {
        "crop_size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "image_mean": MEAN, "image_std": STD, "resample": 3, "size": SIDE,
    }  # fmt: skip
    (OUT / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")

    weights = {name: torch.from_numpy(rule.fill(name, shape, SEED)) for name, shape in shapes(CONFIG).items()}
    exact, single = stages(weights, torch.float64, prompts), stages(weights, torch.float32, prompts)
    for kind in ("vision", "abstractor", "hidden", "embed"):
        of_kind = [name for name in exact if name.startswith(kind + ".")]
        off = max((exact[name] - single[name]).abs().max().item() for name in of_kind)
        print(kind, "at most", max(exact[name].abs().max().item() for name in of_kind), "32-bit floats differ by", off)
    rounded = stages(write_shards(weights), torch.float64, prompts)
    kept = {}
    for name, xs in exact.items():
        # All of it of one image; of the others what follows from all of it.
        if not name.startswith(("debug.", "hidden.")) or IMAGES[0] in name:
            kept[name] = xs.numpy()
        if name.startswith("embed."):
            kept["embed_bin" + name[5:]] = rounded[name].numpy()
            print(name, [round(v, 4) for v in xs[:3].tolist()], "of rounded weights off by", (rounded[name] - xs).abs().max().item())
    rule.write_tensors(OUT / "expected.safetensors", kept)


if __name__ == "__main__":
    main()
