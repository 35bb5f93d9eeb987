"""Makes kernel_ridge.json: kernel ridge regression on a few images, written from the formulas, with plain inverses.

    python tests/reference/kernel_ridge.py > tests/reference/kernel_ridge.json     # numpy 2.4.6

Leave-one-out residuals are by brute force: each image is left out and the rest is fitted again, with the standardisation and
the mean of all images. `subset` is Nyström's method: min |y - K_ns a|² + λ aᵀ K_ss a.
"""

import json

import numpy as np


def fit(kernel, of_support, labels, strength):
    """Dual coefficients; `kernel` is (n, m), `of_support` (m, m)."""
    if kernel.shape[0] == kernel.shape[1] and np.array_equal(kernel, of_support):
        return np.linalg.solve(of_support + strength * np.eye(len(of_support)), labels)
    return np.linalg.solve(kernel.T @ kernel + strength * of_support, kernel.T @ labels)


def main():
    random = np.random.default_rng(14)
    widths, n, n_new = [7, 3], 14, 4
    columns = [(random.normal(size=(n + n_new, width)) * 10.0 ** random.integers(-2, 3, width)).astype(np.float32) for width in widths]
    columns[0][:, 2] = 3.25  # constant
    first, second = (column[:n, 0] / column[:n, 0].std() for column in columns)
    labels = (2.5 + first - 0.5 * second + 0.1 * random.normal(size=n)).round(2)
    labels[5] = labels[9]  # a tie
    strengths = [0.1, 0.4, 1.6]
    cases = []
    for gamma in [0.3, 0.0]:
        for support in [list(range(n)), [0, 3, 4, 8, 11]]:
            distances = products = n_values = 0
            for column in columns:
                x = column.astype(np.float64)
                deviation = x[:n].std(0)
                z = (x - x[:n].mean(0))[:, deviation > 0] / deviation[deviation > 0]
                distances = distances + ((z[:, None] - z[None]) ** 2).sum(-1)
                products = products + z @ z.T
                n_values += z.shape[1]
            distances, products = distances / n_values, products / n_values
            kernel = np.exp(-gamma * distances) / gamma if gamma else products
            known, new, of_support = kernel[:n, support], kernel[n:, support], kernel[np.ix_(support, support)]
            y = labels - labels.mean()
            residuals, fits = [], []
            for strength in strengths:
                left_out = []
                for i in range(n):
                    rest = [j for j in range(n) if j != i]
                    if len(support) == n:
                        dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + strength * np.eye(n - 1), y[rest])
                        left_out.append(y[i] - kernel[i, rest] @ dual)
                    else:
                        left_out.append(y[i] - known[i] @ fit(known[rest], of_support, y[rest], strength))
                residuals.append(left_out)
                fits.append(fit(known, of_support, y, strength))
            best = int(np.argmin([np.mean(np.square(r)) for r in residuals]))
            inverse = np.linalg.inv(of_support + strengths[best] * np.eye(len(support)))
            variance = lambda own, rows: own + strengths[best] - np.einsum("ij,jk,ik->i", rows, inverse, rows)
            if len(support) == n:
                own = 1 / np.diag(inverse)
                scaled = np.square(residuals[best]) / own
            else:
                others = [i for i in range(n) if i not in support]
                scaled = np.square(np.array(residuals[best])[others]) / variance(np.diag(kernel)[others], known[others])
            sigma = np.sqrt(scaled.mean())
            cases.append({
                "gamma": gamma, "support": support, "best": best, "residuals": [[float(r) for r in rs] for rs in residuals],
                "sigma": float(sigma), "scores": (labels.mean() + new @ fits[best]).tolist(),
                "stds": (sigma * np.sqrt(variance(np.diag(kernel)[n:], new))).tolist(),
            })
    print(json.dumps({
        "columns": [[[float(v) for v in row] for row in column] for column in columns],
        "labels": labels.tolist(), "strengths": strengths, "cases": cases,
    }))


if __name__ == "__main__":
    main()
