"""The published MA-AGIQA extraction, on the same checkpoint and images as ours: what `agiqa features` is compared with.

    python benches/peers/mplug_owl2.py CHECKOUT WEIGHTS IMAGES N [--threads 2] [--batch 8] [--out embeddings.npz]

CHECKOUT is a checkout of https://github.com/wangpuyi/MA-AGIQA (11c0cda), whose model code runs as it is. The loop is that
of its `getFeature.py`, on the CPU and in f32: per question, per image decode, pad and preprocess; per batch one call for
the logits and one for the hidden states, whose mean over positions is kept. WEIGHTS is a folder as `agiqa features --weights`
takes it, in safetensors. Prints one JSON object: images, seconds and images/s of the loop under both questions, and seconds
of the whole process with imports and loading.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

QUESTIONS = {
    "f_a": "Evaluate the input image to determine if its quality is compromised due to a lack of meaningful semantic content.",
    "f_b": "Evaluate if the image quality is compromised due to violations of coherence.",
}


def load(checkout, weights):
    """The published network with the checkpoint's tensors, the tokenizer, and the image processor."""
    sys.path.insert(0, str(checkout))
    from mplug_owl2.model.configuration_mplug_owl2 import MPLUGOwl2Config
    from mplug_owl2.model.modeling_mplug_owl2 import MPLUGOwl2LlamaForCausalLM
    from transformers import LlamaTokenizer
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor

    # As getFeature.py does: the initial values are overwritten anyway.
    torch.nn.Linear.reset_parameters = lambda self: None
    torch.nn.LayerNorm.reset_parameters = lambda self: None
    config = MPLUGOwl2Config(**json.loads((weights / "config.json").read_text()))
    model = MPLUGOwl2LlamaForCausalLM(config)
    state = {}
    for shard in sorted(weights.glob("*.safetensors")):
        state.update({name: tensor.float() for name, tensor in load_file(shard).items()})
    missing, unexpected = model.load_state_dict(state, strict=False)
    buffers = ("lm_head.weight", "inv_freq", "pos_embed")
    missing = [name for name in missing if not name.endswith(buffers)]
    assert not missing and not unexpected, (missing[:5], unexpected[:5])
    # The class that the released checkpoint's tokenizer_config.json names.
    tokenizer = LlamaTokenizer.from_pretrained(weights)
    return model.float().eval(), tokenizer, CLIPImageProcessor.from_pretrained(weights)


def expand2square(image, colour):
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new(image.mode, (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def embed(model, tokenizer, processor, paths, question, batch):
    from mplug_owl2.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
    from mplug_owl2.conversation import conv_templates
    from mplug_owl2.mm_utils import tokenizer_image_token

    conversation = conv_templates["mplug_owl2"].copy()
    conversation.append_message(conversation.roles[0], question + "\n" + DEFAULT_IMAGE_TOKEN)
    conversation.append_message(conversation.roles[1], None)
    prompt = conversation.get_prompt()
    ids = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt").unsqueeze(0)
    colour = tuple(int(x * 255) for x in processor.image_mean)
    rows, tensors = [], []
    for i, path in enumerate(paths):
        image = expand2square(Image.open(path).convert("RGB"), colour)
        tensors.append(processor.preprocess(image, return_tensors="pt")["pixel_values"])
        if len(tensors) == batch or i == len(paths) - 1:
            images = torch.cat(tensors, 0)
            with torch.inference_mode():
                model(ids.repeat(len(tensors), 1), images=images)["logits"]
                states = model(ids.repeat(len(tensors), 1), images=images, output_hidden_states=True)["hidden_states"]
                rows.append(torch.mean(states[-1], dim=1))
            tensors = []
    return torch.cat(rows).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer, processor = load(args.checkout, args.weights)
    paths = sorted(path for path in args.images.iterdir() if path.suffix in (".jpg", ".png"))[: args.n]
    start = time.perf_counter()
    columns = {name: embed(model, tokenizer, processor, paths, text, args.batch) for name, text in QUESTIONS.items()}
    seconds = time.perf_counter() - start
    if args.out:
        np.savez(args.out, names=np.array([path.name for path in paths]), **columns)
    report = {"images": len(paths), "seconds": seconds, "images_per_second": len(paths) / seconds}
    print(json.dumps({**report, "process_seconds": time.perf_counter() - STARTED}))


if __name__ == "__main__":
    main()
