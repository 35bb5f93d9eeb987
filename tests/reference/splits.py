"""Makes splits.json: how Python's `random`, seeded as in the published code, shuffles and cuts tables of three lengths.

    python tests/reference/splits.py > tests/reference/splits.json     # Python 3.11
"""

import json
import random


def main():
    cases = []
    for n, seed in ((57, 20), (200, 3), (11, 4_000_000_000)):
        random.seed(seed)
        rows = list(range(n))
        random.shuffle(rows)
        train, validation = int(0.7 * n), int(0.8 * n)
        cases.append({"n": n, "seed": seed, "train": rows[:train], "validation": rows[train:validation], "test": rows[validation:]})
    print("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
