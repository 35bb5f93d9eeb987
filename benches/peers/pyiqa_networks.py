"""Networks that rate an image by pyiqa's own classes, StairIQA by its authors', ResNet-50 by torchvision: what ours are compared
with.

    python benches/peers/pyiqa_networks.py NETWORK WEIGHTS IMAGES N [--threads 2] [--stairiqa CHECKOUT] [--train SIDE BATCH]

NETWORK is hyperiqa, dbcnn, stairiqa, musiq, clipiqa or resnet50. Where the file WEIGHTS is absent, random weights are written there,
in the published layout, and both programs read them. Downloads in the classes' constructors are replaced by random weights.
Images are read with Pillow, one after another, as pyiqa's own command does. With --train, N steps of a plain loop instead: forward,
squared error and backward, on squares of SIDE pixels, BATCH at once. Prints one JSON object: median seconds an image, the mean score
(the last loss), GFLOP an image as PyTorch counts them, and GFLOP/s of a plain product.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode


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
    clip = clip_model.CLIP(**sizes).float().eval()
    clipiqa_arch.load = lambda *_, **__: clip
    return clipiqa_arch.CLIPIQA(model_type="clipiqa")


def stairiqa(checkout):
    sys.path.insert(0, str(checkout))
    from models import stairIQA_resnet

    return stairIQA_resnet.resnet50(pretrained=False)


def resnet50():
    import torchvision

    return torchvision.models.resnet50(weights=None, num_classes=1)


def weighted(network):
    """The module whose tensors are in the file."""
    return network.clip_model[0] if hasattr(network, "clip_model") else network


def levels(path, side=None):
    """(1, 3, height, width) in 0..1."""
    xs = np.array(Image.open(path).convert("RGB"))[:side, :side]
    return torch.from_numpy(xs).permute(2, 0, 1)[None].float() / 255


def five_crops(path):
    """(5, 3, 320, 320), normalised, as StairIQA's test does."""
    from torchvision import transforms

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    resize = transforms.Compose([transforms.Resize(384), transforms.FiveCrop(320)])
    crop = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    return torch.stack([crop(xs) for xs in resize(Image.open(path).convert("RGB"))])


def product():
    """GFLOP/s of a product of squares of 1024 numbers."""
    a, b = torch.rand(2, 1024, 1024)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 1024**3 / statistics.median(times[2:]) / 1e9


def timed(n, run):
    """Median seconds of `run(i)` for i in 0..n, what they return, and the GFLOP of the first, which runs once more before."""
    with FlopCounterMode(display=False) as counter:
        run(0)
    found, seconds = [], []
    for i in range(n):
        started = time.perf_counter()
        found.append(run(i))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), found, counter.get_total_flops() / 1e9


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=["hyperiqa", "dbcnn", "stairiqa", "musiq", "clipiqa", "resnet50"])
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stairiqa", type=pathlib.Path, help="checkout of sunwei925/StairIQA")
    parser.add_argument("--train", type=int, nargs=2, metavar=("SIDE", "BATCH"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = stairiqa(args.stairiqa) if args.network == "stairiqa" else globals()[args.network]()
    module = weighted(network)
    if args.weights.exists():
        module.load_state_dict(torch.load(args.weights, map_location="cpu"))
    else:
        torch.save(module.state_dict(), args.weights)
    paths = sorted(path for path in args.images.iterdir() if path.is_file())
    load = five_crops if args.network in ("stairiqa", "resnet50") else levels
    if args.train:
        side, batch = args.train
        # pyiqa freezes DBCNN's trunks; ours learn.
        network.train().requires_grad_(True)
        inputs = torch.cat([levels(path, side) for path in paths[:batch]])
        if args.network == "musiq":
            from pyiqa.archs.musiq_arch import get_multiscale_patches

            inputs = get_multiscale_patches((inputs - 0.5) * 2, **network.data_preprocess_opts)
        if args.network in ("stairiqa", "resnet50"):
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
            inputs = (inputs - mean) / std
        targets = torch.arange(batch) / batch

        def run(_):
            network.zero_grad(set_to_none=True)
            loss = ((network(inputs).reshape(-1) - targets) ** 2).mean()
            loss.backward()
            return loss.item()

        n, mode = args.n, contextlib.nullcontext()
    else:
        network.eval()
        batch, n, mode = 1, min(args.n, len(paths)), torch.inference_mode()

        def run(i):
            return network(load(paths[i])).double().mean().item()

    with mode:
        seconds, found, gflop = timed(n, run)
    mean = found[-1] if args.train else float(np.mean(found))
    found = {"of": "peer", "network": args.network, "seconds": seconds / batch, "mean": mean}
    print(json.dumps(found | {"gflop": gflop / batch, "product_gflops": product()}))


if __name__ == "__main__":
    main()
