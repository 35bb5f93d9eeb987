"""Unpacks what libtorch needs of the pinned wheels: unpack_libtorch.py DESTINATION PINS cpu|cuda.

Reads DESTINATION/whl, writes DESTINATION/torch and DESTINATION/nvidia. The two stay side by side because the wheels'
own run paths find each other that way, so that no LD_LIBRARY_PATH is needed.
"""

import hashlib
import os
import shutil
import sys
import zipfile

# The CPU set leaves out the GPU half of the wheel (1.3 GB unpacked), and with it `libtorch.so`, which links to that half.
GPU_LIBRARIES = ("libtorch_cuda", "libc10_cuda", "libcaffe2_nvrtc", "libtorch_nvshmem", "libtorch.so")
# What libtorch_cpu.so links to in any case.
CPU_NEEDS = ("libcudart.so", "libcupti.so")
PYTHON_LIBRARIES = ("libtorch_python", "libshm")


def is_wanted(name: str, flavour: str) -> bool:
    base = os.path.basename(name)
    if name.startswith("torch/include/") or name == "torch/version.py":
        return True
    if name.startswith("torch/lib/"):
        skipped = PYTHON_LIBRARIES + (GPU_LIBRARIES if flavour == "cpu" else ())
        return not base.startswith(skipped) and "/libshm" not in name
    is_library = name.startswith("nvidia/") and "/lib/" in name and ".so" in base
    return is_library and (flavour == "cuda" or base.startswith(CPU_NEEDS))


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def wheels(folder: str, pins: str) -> list:
    """The wheel of each pin, by its hash; whatever else lies in the folder is not looked at."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".whl")]
    found = {sha256(path): path for path in paths}
    lines = [line.split() for line in open(pins) if line.strip() and not line.startswith("#")]
    missing = [f"{pin} ({option})" for pin, option in lines if option.split(":")[1] not in found]
    if missing:
        sys.exit(f"no wheel in {folder} for: {', '.join(missing)}")
    return [found[option.split(":")[1]] for _, option in lines]


def main() -> None:
    dst, pins, flavour = sys.argv[1:]
    new = os.path.join(dst, "new")
    shutil.rmtree(new, ignore_errors=True)
    for wheel in wheels(os.path.join(dst, "whl"), pins):
        with zipfile.ZipFile(wheel) as archive:  # which checks every file's CRC
            archive.extractall(new, [name for name in archive.namelist() if is_wanted(name, flavour)])
    if flavour == "cpu":
        os.symlink("libtorch_cpu.so", os.path.join(new, "torch/lib/libtorch.so"))
    with open(os.path.join(new, "torch/version.py")) as f:
        version = next(line.split("'")[1] for line in f if line.startswith("__version__"))
    with open(os.path.join(new, "torch/build-version"), "w") as f:  # torch-sys compares this with its own version
        f.write(version + "\n")
    for part in ("torch", "nvidia"):
        shutil.rmtree(os.path.join(dst, part), ignore_errors=True)
        os.rename(os.path.join(new, part), os.path.join(dst, part))
    os.rmdir(new)


main()
