"""The authors' own MA-AGIQA module in PyTorch: what extraction with `maniqa` is compared with.

    git clone https://github.com/wangpuyi/MA-AGIQA CHECKOUT
    python benches/peers/maniqa_official.py CHECKOUT WEIGHTS --make             # once, without a published checkpoint
    python benches/peers/maniqa_official.py CHECKOUT WEIGHTS IMAGES N [--threads 2] [--batch 8] [--dtype f32]
    agiqa features --extractor maniqa --weights WEIGHTS --images IMAGES --store STORE --threads 2 --batch-size 8 --dtype f32

WEIGHTS is the folder that `agiqa features` reads: `config.json` and a state dict. `--make` fills it with an untrained
network of the paper's size, which takes as long as a trained one. Images are read with OpenCV as the authors do. The module
runs as it is, with the installed timm, whose attention is fused, instead of the old one beside it. Prints one JSON
object: images, seconds and images/s of the loop alone, seconds of the whole process, mean `f_1` and mean rating.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import pathlib
import sys

import cv2
import timm
import torch

PAPER = {
    "vit": {
        "img_size": 224,
        "patch_size": 8,
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "mlp_ratio": 4.0,
        "layer_norm_eps": 1e-6,
        "taps": [6, 7, 8, 9],
    },
    "embed_dim": 768,
    "depths": [2, 2],
    "num_heads": [4, 4],
    "window_size": 4,
    "dim_mlp": 768,
    "num_tab": 2,
    "scale": 0.8,
}


def build(checkout, config):
    """The authors' module of that size; it is written for a GPU and downloads weights, which is taken out here."""
    # Last, so that the installed timm is found before the copy beside the module.
    sys.path.append(str(checkout))
    create = timm.create_model
    timm.create_model = lambda name, pretrained: create(name, pretrained=False, num_classes=0)
    torch.Tensor.cuda = lambda self, *_, **__: self
    from models.MA_AGIQA import MA_AGIQA

    sizes = ("embed_dim", "depths", "window_size", "dim_mlp", "num_heads", "num_tab", "scale")
    vit = {"img_size": config["vit"]["img_size"], "patch_size": config["vit"]["patch_size"]}
    return MA_AGIQA(**{name: config[name] for name in sizes}, **vit).eval()


def read(path, side, dtype):
    image = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return ((pixels - 0.5) / 0.5).to(dtype)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path, nargs="?")
    parser.add_argument("n", type=int, nargs="?")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.make:
        torch.manual_seed(0)
        args.weights.mkdir(parents=True, exist_ok=True)
        (args.weights / "config.json").write_text(json.dumps(PAPER, indent=1))
        torch.save(build(args.checkout, PAPER).state_dict(), args.weights / "untrained.pt")
        return
    if args.n is None:
        parser.error("IMAGES and N are needed")

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    config = json.loads((args.weights / "config.json").read_text())
    net = build(args.checkout, config)
    [checkpoint] = [path for path in args.weights.iterdir() if path.suffix in {".pt", ".pth"}]
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    missing, _ = net.load_state_dict({name.removeprefix("module."): t for name, t in state.items()}, strict=False)
    if any("tablock" in name or "vit.blocks" in name for name in missing):
        sys.exit(f"{checkpoint} lacks {missing}")
    net.to(dtype)
    # The fusion's products are f32 in the module's own code, and are nothing beside the rest.
    for name in ("fc784_784", "fc4096_784_a2", "fc4096_784_b2", "gating", "output_fc"):
        getattr(net, name).float()
    scores, weights, f_1 = [], [], []
    net.fc_score.register_forward_hook(lambda _, __, ys: scores.append(ys.squeeze(2).float()))
    net.fc_weight.register_forward_hook(lambda _, __, ys: weights.append(ys.squeeze(2).float()))
    net.fc784_784.register_forward_pre_hook(lambda _, xs: f_1.append(xs[0].float()) or (xs[0].float(),))

    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in endings)[: args.n]
    side = config["vit"]["img_size"]
    with torch.no_grad():
        loop = time.perf_counter()
        for start in range(0, len(paths), args.batch):
            batch = torch.stack([read(path, side, dtype) for path in paths[start : start + args.batch]])
            semantic = torch.zeros(len(batch), 4096)
            net(batch, tensor1=semantic, tensor2=semantic)
        elapsed = time.perf_counter() - loop
    scores, weights = torch.cat(scores), torch.cat(weights)
    print(
        json.dumps(
            {
                "n_images": len(paths),
                "loop_secs": round(elapsed, 3),
                "images_per_sec": round(len(paths) / elapsed, 3),
                "process_secs": round(time.perf_counter() - STARTED, 3),
                "mean_f_1": float(torch.cat(f_1).mean()),
                "mean_rating": float(((scores * weights).sum(1) / weights.sum(1)).mean()),
            }
        )
    )


main()
