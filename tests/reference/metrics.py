"""Makes metrics.json: correlations and fits by SciPy on cases with ties, outliers, few samples and constants.

    python tests/reference/metrics.py > tests/reference/metrics.json     # numpy 2.4.6, scipy 1.17.1

Of each case: SRCC, PLCC, KRCC (tau-b) and RMSE of the raw scores; and PLCC and RMSE after the logistic curve of four
parameters, b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), that MINPACK's Levenberg-Marquardt fits from the published
start: b1 = max(label), b2 = min(label), b3 = mean(score), b4 = 0.5. Undefined is null.

Where the best curve is far from a straight line and from a step, its parameters are determined, and compared too. Elsewhere
the error has no minimum at finite parameters, and searches stop at different places of one valley: `tolerance` says how
far the error may be off.
"""

import json
import warnings

import numpy as np
from scipy import optimize, stats


def curve(x, b1, b2, b3, b4):
    return b2 + (b1 - b2) / (1 + np.exp(-(x - b3) / np.abs(b4)))


def cases():
    random = np.random.default_rng(35)
    normal = lambda n: random.normal(size=n).round(4)
    x = normal(50)
    yield "noisy", x, (3 + 0.7 * x + 0.5 * normal(50)).round(4), False
    yield "unrelated", normal(40), (3 + normal(40)).round(4), False
    yield "ties in both", random.integers(0, 5, 40) / 2.0, random.integers(1, 6, 40).astype(float), False
    x = (random.uniform(-3, 3, 60)).round(4)
    y = curve(x, 4.5, 1.2, 0.4, 0.6) + 0.15 * normal(60)
    yield "curved", x, y.round(4), True
    yield "curved downwards", -x, y.round(4), True
    yield "curved, in percent", (20 * x + 50).round(4), (25 * y).round(4), False
    x = normal(45)
    y = (3 + 0.9 * x + 0.3 * normal(45)).round(4)
    x[[3, 17]], y[29] = [40.0, -25.0], -8.0
    yield "outliers", x, y, False
    yield "constant score", np.full(12, 2.5), normal(12), False
    yield "constant label", normal(12), np.full(12, 2.5), False
    yield "one", np.array([1.5]), np.array([2.0]), False
    yield "two", np.array([1.5, 0.5]), np.array([2.0, 2.5]), False
    yield "three", np.array([1.0, 2.0, 4.0]), np.array([1.5, 1.0, 3.0]), False
    yield "five", np.array([0.2, 0.9, 1.4, 2.2, 3.1]), np.array([1.0, 1.2, 2.1, 3.9, 4.2]), True
    n = 300
    x = normal(n)
    yield "many", x, np.clip(curve(x, 4.8, 1.1, 0.2, 0.5) + 0.4 * normal(n), 0, 5).round(4), True


def defined(value):
    return float(value) if np.isfinite(value) else None


def main():
    warnings.simplefilter("ignore")
    found = []
    for name, score, label, is_determined in cases():
        pair = lambda f: defined(f(score, label)[0]) if len(score) > 1 else None
        raw = {"srcc": pair(stats.spearmanr), "plcc": pair(stats.pearsonr), "krcc": pair(stats.kendalltau)}
        raw["rmse"] = float(np.sqrt(np.mean((score - label) ** 2)))
        fit = {"plcc": None, "rmse": None, "required": True}
        if len(score) >= 4:
            start = [label.max(), label.min(), score.mean(), 0.5]
            parameters, _ = optimize.curve_fit(curve, score, label, start, maxfev=10**6)
            mapped = curve(score, *parameters)
            if np.ptp(mapped) > 1e-9 and np.ptp(label) > 0:
                fit["plcc"] = defined(stats.pearsonr(mapped, label)[0])
            fit["rmse"] = float(np.sqrt(np.mean((mapped - label) ** 2)))
            fit["params"] = parameters.tolist()
            fit["params_well_determined"] = is_determined
            tight = 1e-6 if is_determined else 2e-3
            fit["tolerance"] = {"plcc": tight, "rmse_relative_to_label_std": tight, "params_relative": 1e-4}
        case = {"name": name, "pred": score.tolist(), "label": label.tolist(), "raw": raw, "logistic4_official": fit}
        found.append(json.dumps(case))
    print('{"cases": [\n' + ",\n".join(found) + "\n]}")


if __name__ == "__main__":
    main()
