"""Kills `baseline`, `features` and `train` at random moments, lets each finish, and compares the tables with those of a run
that nobody disturbed: `python scripts/kill_check.py PARAMS [N]`

PARAMS is the folder of BRISQUE's parameters, N the number of kills of each command (20). Needs the built program and the
weights of `clip-b16`; takes some minutes. Ends with 1 if a table differs.
"""

import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

AGIQA = pathlib.Path("target/release/agiqa").resolve()
EXAMPLE = pathlib.Path("data.example").resolve()
FEATURES = ["features", "--extractor", "clip-b16", "--side", "32", "--device", "cpu", "--part-rows", "4"]
SCORES = "SELECT scorer, fingerprint, image_id, score, direction FROM scores ORDER BY image_id"
VECTORS = ["SELECT image_id, f_a, f_b, n_tokens FROM semantic ORDER BY image_id"]
VECTORS += ["SELECT image_id, f_1 FROM quality ORDER BY image_id"]
LOG = "SELECT run, epoch, step, lr, n_images, loss, validation_srcc, validation_mse FROM train_log ORDER BY run, step"


def agiqa(store, *args):
    done = subprocess.run([AGIQA, *args, "--store", store, "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.returncode}: {done.stderr}"
    return done.stdout


def tables(store, statements):
    """The rows of each statement as CSV, and the bytes of the trained models."""
    rows = [agiqa(store, "query", statement, "--format", "csv") for statement in statements]
    return rows + [path.read_bytes() for path in sorted(store.glob("models/*/*.safetensors"))]


def check(base, args, statements, n_kills):
    """Kills the command `args`, begun in copies of the store `base`. Returns the number of stores that differ."""
    with tempfile.TemporaryDirectory() as folder:
        store = pathlib.Path(folder) / "store"
        shutil.copytree(base, store)
        started = time.monotonic()
        agiqa(store, *args)
        duration = time.monotonic() - started
        expected = tables(store, statements)
        n_killed = n_different = 0
        while n_killed < n_kills:
            shutil.rmtree(store)
            shutil.copytree(base, store)
            streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            child = subprocess.Popen([AGIQA, *args, "--store", store, "--quiet"], **streams)
            time.sleep(random.uniform(0, duration))
            child.send_signal(signal.SIGKILL)
            n_killed += child.wait() == -signal.SIGKILL
            agiqa(store, *args)
            n_different += tables(store, statements) != expected
        print(f"{args[0]}: {n_killed} times killed within {duration:.1f} s: {n_different} stores differ", flush=True)
        return n_different


def main():
    params, n_kills = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    random.seed(20)
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "base"
        rating = ["--adapter", "agiqa-3k", "--table", EXAMPLE / "data.csv", "--images", EXAMPLE / "images"]
        agiqa(base, "ingest", "--dataset", "example", *rating)
        of_example = ["--dataset", "example"]
        baseline = ["baseline", "--methods", "brisque", "--params", params, "--part-rows", "4"]
        n_different = check(base, [*baseline, *of_example], [SCORES], n_kills)
        n_different += check(base, [*FEATURES, *of_example], VECTORS, n_kills)
        agiqa(base, *FEATURES, *of_example)
        agiqa(base, "split", *of_example)
        train = ["train", "--features", "clip-b16", "--epochs", "6", "--checkpoint-epochs", "1"]
        n_different += check(base, [*train, *of_example], [LOG], n_kills)
    sys.exit(n_different > 0)


if __name__ == "__main__":
    main()
