"""Networks that rate an image by pyiqa's own classes, StairIQA by its authors': what `agiqa score` is compared with.

    python benches/peers/pyiqa_networks.py NETWORK WEIGHTS IMAGES N [--threads 2] [--stairiqa CHECKOUT]
    agiqa score --method NETWORK --weights WEIGHTS --images IMAGES --store STORE --threads 2

NETWORK is hyperiqa, dbcnn, stairiqa, musiq or clipiqa. Where the file WEIGHTS is absent, random weights are written there, in
the published layout, and both programs read them. Downloads in the classes' constructors are replaced by random weights.
Images are read with Pillow, one after another, as pyiqa's own command does. Prints one JSON object: images, seconds an image
with decoding, images/s, mean score.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch
from PIL import Image


def hyperiqa():
    import timm

    create = timm.create_model
    timm.create_model = lambda name, pretrained=False, **more: create(name, pretrained=False, **more)
    from pyiqa.archs.hypernet_arch import HyperNet

    return HyperNet(pretrained=False)


def dbcnn():
    import torchvision
    from pyiqa.archs import dbcnn_arch

    vgg16 = torchvision.models.vgg16
    torchvision.models.vgg16 = lambda **_: vgg16(weights=None)
    dbcnn_arch.load_pretrained_network = lambda *_, **__: None
    return dbcnn_arch.DBCNN(pretrained=False)


def musiq():
    from pyiqa.archs.musiq_arch import MUSIQ

    return MUSIQ(pretrained=False)


def clipiqa():
    from pyiqa.archs import clip_model, clipiqa_arch

    sizes = dict(embed_dim=1024, image_resolution=224, vision_layers=(3, 4, 6, 3), vision_width=64, vision_patch_size=None)
    sizes |= dict(context_length=77, vocab_size=49408, transformer_width=512, transformer_heads=8, transformer_layers=12)
    clip = clip_model.CLIP(**sizes).float()
    clipiqa_arch.load = lambda *_, **__: [clip]
    return clipiqa_arch.CLIPIQA(model_type="clipiqa")


def stairiqa(checkout):
    sys.path.insert(0, str(checkout))
    from models import stairIQA_resnet

    return stairIQA_resnet.resnet50(pretrained=False)


def weighted(network):
    """The module whose tensors are in the file."""
    return network.clip_model[0] if hasattr(network, "clip_model") else network


def read(path):
    """(1, 3, height, width) in 0..1."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def five_crops(path):
    """(5, 3, 320, 320), normalised, as the authors' test does."""
    from torchvision import transforms

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    resize = transforms.Compose([transforms.Resize(384), transforms.FiveCrop(320)])
    crop = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    return torch.stack([crop(xs) for xs in resize(Image.open(path).convert("RGB"))])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=["hyperiqa", "dbcnn", "stairiqa", "musiq", "clipiqa"])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stairiqa", type=pathlib.Path, help="checkout of sunwei925/StairIQA")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = stairiqa(args.stairiqa) if args.network == "stairiqa" else globals()[args.network]()
    network.eval()
    module = weighted(network)
    if args.weights.exists():
        module.load_state_dict(torch.load(args.weights, map_location="cpu"))
    else:
        torch.save(module.state_dict(), args.weights)
    load = five_crops if args.network == "stairiqa" else read
    paths = sorted(path for path in args.images.iterdir() if path.is_file())[: args.n]
    scores, started = [], time.perf_counter()
    with torch.inference_mode():
        for path in paths:
            scores.append(network(load(path)).double().mean().item())
    seconds = (time.perf_counter() - started) / len(paths)
    found = {"network": args.network, "images": len(paths), "seconds": seconds, "images_per_s": 1 / seconds}
    print(json.dumps(found | {"mean": float(np.mean(scores))}))


if __name__ == "__main__":
    main()
