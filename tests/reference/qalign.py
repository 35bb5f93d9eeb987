"""Makes qalign.json: scores of a small Q-Align, which is the network of mplug_owl2.py with an output head.

    python tests/reference/qalign.py    # after mplug_owl2.py; numpy 2.4.6, sentencepiece 0.2.3, torch 2.15.0

Written from the published scorers' semantics: the prompt's parts around the image are encoded by themselves, the logits of
the last position at the levels' first tokens go through a softmax, and the score is the mean of 5, 4, 3, 2, 1. One image and
one prompt at a time, in 64-bit floats. `f16` is the score with weights rounded to 16 bits, `lora` that under a low-rank
adapter of rank 2 and alpha 4, whose abstractor also has another end token.
"""

import json

import numpy as np
import torch

import rule
from mplug_owl2 import CONFIG, HERE, IMAGES, MEAN, OUT, SEED, STD, Network, Tokenizer, for_mplug_owl2, shapes

LEVELS = ["excellent", "good", "fair", "poor", "bad"]
RANK, ALPHA = 2, 4.0
PROMPTS = {
    "quality": "USER: How would you rate the quality of this image?\n<|image|>\nASSISTANT: The quality of the image is",
    "quality-eval": "USER: How would you rate the quality of this image?\n<|image|> ASSISTANT: The quality of the image is",
    "quality-github": "USER: How would you rate the quality of this image?\n<|image|>\nASSISTANT: The image of the quality is",
    "aesthetics": "USER: How would you rate the aesthetics of this image?\n<|image|>\nASSISTANT: The aesthetics of the image is",
    "aesthetic": "USER: How would you rate the aesthetic of this image?\n<|image|>\nASSISTANT: The aesthetic of the image is",
    "video": "USER: How would you rate the quality of this video?\n<|image|>\nASSISTANT: The quality of the video is",
}


def adapter():
    """Names and shapes of the low-rank matrices."""
    d = CONFIG["hidden_size"]
    for i in range(CONFIG["num_hidden_layers"]):
        for layer in ("q_proj", "v_proj.multiway.1"):
            yield f"model.layers.{i}.self_attn.{layer}", {"A": [RANK, d], "B": [d, RANK]}


def adapted(weights):
    found = dict(weights)
    matrix = lambda name, shape: torch.from_numpy(rule.fill(name, shape, SEED))
    for layer, factors in adapter():
        a, b = (matrix(f"{layer}.lora_{factor}.weight", shape) for factor, shape in factors.items())
        found[f"{layer}.weight"] = weights[f"{layer}.weight"].double() + ALPHA / RANK * b.double() @ a.double()
    end = "model.visual_abstractor.vit_eos"
    found[end] = -weights[end]
    return found


def scores(weights, prompts, levels):
    network = Network(CONFIG, {name: xs.double() for name, xs in weights.items()})
    head, found = network.w["lm_head.weight"], {name: {} for name in prompts}
    for image in IMAGES:
        u8 = for_mplug_owl2(HERE / "images" / image)
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        pixels = torch.from_numpy(((u8.astype(np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1).copy())
        visual = network.abstract(network.see(pixels.double()))
        for name, ids in prompts.items():
            logits = head @ network.decode(ids, visual)[-1]
            probabilities = torch.softmax(logits[levels], 0)
            found[name][image] = (probabilities * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)).sum().item()
    return found


def main():
    torch.set_num_threads(1)
    tokenizer = Tokenizer((OUT / "tokenizer.model").read_bytes(), (OUT / "tokenizer.json").read_text())
    prompts = {}
    for name, text in PROMPTS.items():
        before, after = text.split("<|image|>")
        prompts[name] = tokenizer.encode(before) + [-200] + tokenizer.encode(after)[1:]
    levels = [tokenizer.encode(word)[1] for word in LEVELS]
    all_shapes = shapes(CONFIG) | {"lm_head.weight": [CONFIG["vocab_size"], CONFIG["hidden_size"]]}
    weights = {name: torch.from_numpy(rule.fill(name, shape, SEED)) for name, shape in all_shapes.items()}
    exact = scores(weights, prompts, levels)
    quality = {"quality": prompts["quality"]}
    rounded = scores({name: xs.half() for name, xs in weights.items()}, quality, levels)["quality"]
    lora = scores(adapted(weights), quality, levels)["quality"]
    for name, values in exact.items():
        print(name, values)
    print("f16", rounded, "lora", lora)
    reference = {"level_ids": levels, "input_ids": prompts, "scores": exact, "f16": rounded, "lora": lora}
    rule.write_json(HERE / "qalign.json", reference)


if __name__ == "__main__":
    main()
